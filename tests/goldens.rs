//! Compares ESM-2 with float64 reference values from Hugging Face transformers
//! (`goldens/make_goldens.py`).
//!
//! They are every layer's mean and maximum, the BOS vector, every layer's residues, logits and
//! contacts. There are weights for every `head_dim` of the family, and sequences of 1 to 1,500
//! residues.

mod reference;

use plm_core::{Dtype, OutputSet};
use plm_esm2::Esm2;
use reference::{Set, plm_tiny, random};

#[test]
fn the_trained_demonstration_model_meets_the_reference() {
    check_f32(&plm_tiny());
}

#[test]
fn head_dim_16_meets_the_reference() {
    check_f32(&random("hd16"));
}

#[test]
fn head_dim_24_meets_the_reference() {
    check_f32(&random("hd24"));
}

#[test]
fn head_dim_32_meets_the_reference() {
    check_f32(&random("hd32"));
}

#[test]
fn head_dim_64_meets_the_reference() {
    check_f32(&random("hd64"));
}

#[test]
fn head_dim_128_meets_the_reference() {
    check_f32(&random("hd128"));
}

#[test]
fn sixteen_bit_models_stay_close_to_the_reference() {
    let sets = ["hd16", "hd24", "hd32", "hd64", "hd128"];
    for set in sets.map(random).into_iter().chain([plm_tiny()]) {
        for dtype in [Dtype::Bf16, Dtype::F16] {
            let model = Esm2::new(&set.checkpoint, dtype).expect("the weights load");
            let columns = model
                .forward(&set.all(), &OutputSet::default())
                .expect("the batch runs");
            let cosines = set.worst_cosines(&columns[0], dtype);
            assert!(cosines.is_close(), "{cosines}");
        }
    }
}

fn check_f32(set: &Set) {
    let model = Esm2::new(&set.checkpoint, Dtype::F32).expect("the weights load");
    set.assert_equal_in_f32(&model);
}
