//! Compares ESM-2, ESM-1b, ESM-1v and ESM C with float64 reference values from Hugging Face
//! transformers (`goldens/make_goldens.py`, `goldens/make_esmc_goldens.py`).
//!
//! They are every layer's mean and maximum, the BOS vector (of ESM C that of every layer), every
//! layer's residues, logits, and contacts (of all but ESM C). There are weights for every
//! `head_dim` of ESM-2 and for both layouts of ESM C. Sequences have 1 to 1,500 residues. The
//! longest for ESM-1b and ESM-1v has 1,022, and so a token for each of their 1,024 positions.
//! One model has an adapter of peft; `adapters.rs` has others.

mod reference;

use plm_core::{Dtype, OutputSet};
use plm_encoder::{FamilyCheckpoint, Model};
use reference::{Set, adapted, esmc, plm_tiny, random};

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
fn esm1b_meets_the_reference() {
    check_f32(&random("esm1b"));
}

#[test]
fn esm1v_meets_the_reference() {
    check_f32(&random("esm1v"));
}

#[test]
fn esmc_meets_the_reference() {
    check_f32(&esmc("hd64"));
}

#[test]
fn esmc_in_the_layout_of_esm_meets_the_reference_and_is_the_same_model() {
    let [esm, transformers] = ["hd32-esm", "hd32"].map(esmc);
    check_f32(&esm);
    let digest = |set: &Set<plm_esmc::Checkpoint>| set.checkpoint.weights_digest();
    let digests = [digest(&esm), digest(&transformers)];
    let [esm, transformers] = digests.map(|digest| digest.expect("the weights can be read"));
    assert_eq!(esm, transformers);
}

#[test]
fn a_model_with_an_adapter_meets_the_reference() {
    let set = adapted();
    let model = Model::new(&set.checkpoint, Dtype::F32).expect("the weights load");
    set.assert_means_equal_in_f32(&model);
    check_16_bits(&set);
}

#[test]
fn sixteen_bit_models_stay_close_to_the_reference() {
    let sets = ["hd16", "hd24", "hd32", "hd64", "hd128", "esm1b", "esm1v"];
    for set in sets.map(random).into_iter().chain([plm_tiny()]) {
        check_16_bits(&set);
    }
    for set in ["hd32", "hd64"].map(esmc) {
        check_16_bits(&set);
    }
}

fn check_f32<C: FamilyCheckpoint>(set: &Set<C>) {
    let model = Model::new(&set.checkpoint, Dtype::F32).expect("the weights load");
    set.assert_equal_in_f32(&model);
}

fn check_16_bits<C: FamilyCheckpoint>(set: &Set<C>) {
    for dtype in [Dtype::Bf16, Dtype::F16] {
        let model = Model::new(&set.checkpoint, dtype).expect("the weights load");
        let columns = model
            .forward(&set.all(), &OutputSet::default())
            .expect("the batch runs");
        let cosines = set.worst_cosines(&columns[0], dtype);
        assert!(cosines.is_close(), "{cosines}");
    }
}
