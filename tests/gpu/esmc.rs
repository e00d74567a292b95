//! ESM C by itself, in each number format that it has.

use std::sync::Arc;

use plm_core::{
    Dtype, EncodedBatch, EncoderLoader, Layer, Note, OutputKind, OutputSet, PackedBatch, Packer,
    Rank, RowId,
};
use plm_encoder::Model;
use plm_esm2::Gpu;
use plm_esmc::{Checkpoint, EsmcLoader, ModelShape, RELEASED, token_map};
use plm_testkit::{SplitMix64, random_residues};

use crate::formats::{rows_far_from_the_reference, worst_row};
use crate::reference::{Set, esmc};

const FORMATS: [Dtype; 2] = [Dtype::F32, Dtype::F16];

fn sets() -> [Set<Checkpoint>; 3] {
    ["hd32", "hd32-esm", "hd64"].map(esmc)
}

/// All outputs but contacts, which ESM C does not have.
fn kinds() -> impl Iterator<Item = OutputKind> {
    let kinds = OutputKind::ALL.into_iter();
    kinds.filter(|&kind| kind != OutputKind::Contacts)
}

pub(crate) fn esmc_in_f32_meets_the_reference() {
    let gpu = Gpu::open(0).expect("it was counted");
    for set in sets() {
        let model = Model::on_gpu(&set.checkpoint, Dtype::F32, &gpu).expect("the weights load");
        println!("{}", set.assert_equal_in_f32(&model));
    }
}

/// In bf16, where queries and keys are rounded once more than in ESM-2, means are measured, and f32
/// takes its place.
pub(crate) fn esmc_in_16_bits_stays_close_to_the_reference() {
    let mut failures = Vec::new();
    for set in sets() {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let loader = EsmcLoader::on_gpus(set.checkpoint.clone(), vec![0], dtype);
            let loader = loader.expect("the weights can be read");
            let mut encoder = loader.load(Rank(0)).expect("the weights load");
            let batch = Arc::new(set.all());
            let encoded = encoder.encode(&batch).expect("the batch runs");
            let in_f32 = encoded.notes().filter(|(_, note)| **note == Note::InF32);
            let all_in_f32 = in_f32.count() == encoded.num_sequences();
            let report = set.worst_cosines(&encoded.columns()[0], dtype);
            println!("{report}, in f32: {all_in_f32}");
            if !report.is_close() || all_in_f32 != (dtype == Dtype::Bf16) {
                failures.push(report.to_string());
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Compares every row of every output with f32 on the same GPU, at the depths and widths of
/// released models, which have layers of their own on a Hopper.
pub(crate) fn esmc_stays_close_to_f32_in_large_models() {
    let gpu = Gpu::open(0).expect("it was counted");
    let lengths = [1, 8, 20, 30, 50, 75, 100, 128, 200, 300, 500, 1022];
    let sequences: Vec<(u64, usize)> = (0..).zip(lengths.repeat(4)).collect();
    let batch = pack(&sequences);
    let outputs = OutputSet::new(kinds(), [Layer::LAST]).with_residues_dtype(Dtype::F32);
    for shape in &RELEASED[..2] {
        let checkpoint = Checkpoint::random(shape, 5);
        let encode = |dtype| {
            let model = Model::on_gpu(&checkpoint, dtype, &gpu).expect("it loads");
            let specs = model.output_specs(&outputs).expect("the model has all");
            (model.forward(&batch, &outputs).expect("it runs"), specs)
        };
        let (exact, specs) = encode(Dtype::F32);
        let (ours, _) = encode(Dtype::F16);
        for ((ours, exact), spec) in ours.iter().zip(&exact).zip(&specs) {
            let worst = (0..sequences.len()).map(|sequence| {
                let (ours, exact) = (ours.sequence(sequence), exact.sequence(sequence));
                worst_row(&ours, &exact, spec.width)
            });
            let worst = worst.fold(1.0, f64::min);
            let what = format!("{} of {} in f16", spec.name(), shape.name);
            println!("{what}: {worst:.6}");
            assert!(worst >= 0.9999, "{what}: {worst}");
        }
    }
}

pub(crate) fn all_esmc_outputs_stay_close_to_the_reference() {
    let kinds: Vec<OutputKind> = kinds().collect();
    let far = sets()
        .into_iter()
        .flat_map(|set| rows_far_from_the_reference(&set, &kinds, &FORMATS));
    let far: Vec<String> = far.collect();
    assert!(far.is_empty(), "{}", far.join("\n"));
}

/// Sequences of these residue counts, by row.
fn pack(sequences: &[(u64, usize)]) -> Arc<PackedBatch> {
    let tokens = token_map();
    let mut packer = Packer::new(&tokens, 1 << 24);
    for &(row, residues) in sequences {
        packer
            .push(RowId(row), &random_residues(row, residues))
            .expect("random residues are in the alphabet");
    }
    Arc::new(packer.finish())
}

/// The bits of a sequence in all outputs, one after the other.
fn bits_of(encoded: &EncodedBatch, sequence: usize) -> Vec<u32> {
    let columns = encoded.columns().iter();
    let values = columns.flat_map(|column| column.sequence(sequence));
    values.map(f32::to_bits).collect()
}

/// A sequence has the same bits alone and in batches of other sizes and orders, at the width of
/// every released model and in every format.
pub(crate) fn an_esmc_sequences_bits_are_its_own() {
    let lengths = [1, 2, 7, 13, 62, 63, 64, 126, 127, 128, 254, 511, 1022, 2000];
    let sequences: Vec<(u64, usize)> = (0..).zip(lengths).collect();
    let gpu = Gpu::open(0).expect("it was counted");
    for shape in RELEASED {
        let shape = ModelShape {
            num_layers: 3,
            ..shape
        };
        let checkpoint = Checkpoint::random(&shape, 3);
        for dtype in FORMATS {
            let outputs = OutputSet::new(kinds(), [Layer(1), Layer::LAST]);
            let outputs = outputs.with_residues_dtype(Dtype::F32);
            // An encoder may take f32 for outputs of one token.
            let model = Model::on_gpu(&checkpoint, dtype, &gpu).expect("the weights load");
            let specs = model.output_specs(&outputs).expect("the model has them");
            let encode = |batch: &[(u64, usize)]| {
                let columns = model.forward(&pack(batch), &outputs);
                let encoded = EncodedBatch::new(columns.expect("the batch runs"));
                encoded
                    .check(&specs, batch.iter().map(|&(_, residues)| residues as u32))
                    .expect("the columns are those of the specs");
                encoded
            };
            let alone: Vec<Vec<u32>> = sequences
                .iter()
                .map(|&sequence| bits_of(&encode(&[sequence]), 0))
                .collect();
            let is_finite = |&bits: &u32| f32::from_bits(bits).is_finite();
            assert!(alone.iter().flatten().all(is_finite));
            let mut random = SplitMix64::new(7);
            for _ in 0..4 {
                let mut batch = sequences.clone();
                for i in (1..batch.len()).rev() {
                    batch.swap(i, random.below(i as u64 + 1) as usize);
                }
                batch.truncate(1 + random.below(14) as usize);
                let together = encode(&batch);
                for (position, &(row, residues)) in batch.iter().enumerate() {
                    assert!(
                        bits_of(&together, position) == alone[row as usize],
                        "{} in {dtype}: {residues} residues have other bits among {} sequences",
                        shape.name,
                        batch.len()
                    );
                }
            }
        }
    }
}
