//! The model by itself, in each number format.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use plm_core::{
    Column, Dtype, EncodedBatch, EncoderLoader, Layer, Note, OutputKind, OutputSet, OutputSpec,
    PackedBatch, Packer, Rank, RowId, Ticket, TokenMap,
};
use plm_encoder::{FamilyCheckpoint, Loader, Started};
use plm_esm2::{
    Checkpoint, Config, Error, Esm2, Esm2Loader, Gpu, ModelShape, NoInt8, Positions, RELEASED,
    RELEASED_ESM1, VOCABULARY, token_map,
};
use plm_testkit::{SplitMix64, random_residues};

use crate::reference::{Set, adapted, cosine, plm_tiny, random};

/// A model of the least width whose layer norms are part of products.
const THREE_LAYERS: ModelShape = ModelShape {
    name: "three layers",
    num_layers: 3,
    hidden_size: 1_024,
    num_heads: 16,
    ffn_size: 4_096,
    ..RELEASED[3]
};

/// The same with learned positions, as ESM-1b and ESM-1v have them.
fn three_layers_of_esm1() -> [ModelShape; 2] {
    [&RELEASED_ESM1[0], &RELEASED_ESM1[1]].map(|released| ModelShape {
        positions: released.positions,
        ..THREE_LAYERS
    })
}

fn sets() -> Vec<Set<Checkpoint>> {
    let sets = ["hd16", "hd24", "hd32", "hd64", "hd128", "esm1b", "esm1v"];
    sets.map(random).into_iter().chain([plm_tiny()]).collect()
}

fn gpu() -> Gpu {
    Gpu::open(0).expect("it was counted")
}

pub(crate) fn f32_meets_the_reference() {
    for set in sets() {
        let model = Esm2::on_gpu(&set.checkpoint, Dtype::F32, &gpu()).expect("the weights load");
        println!("{}", set.assert_equal_in_f32(&model));
    }
    let set = adapted();
    let model = Esm2::on_gpu(&set.checkpoint, Dtype::F32, &gpu()).expect("the weights load");
    set.assert_means_equal_in_f32(&model);
}

pub(crate) fn f16_stays_close_to_the_reference() {
    stays_close(Dtype::F16);
}

pub(crate) fn bf16_stays_close_to_the_reference() {
    stays_close(Dtype::Bf16);
}

pub(crate) fn int8_stays_close_to_the_reference() {
    stays_close(Dtype::Int8);
}

fn stays_close(dtype: Dtype) {
    let failures: Vec<String> = sets()
        .into_iter()
        .chain([adapted()])
        .filter_map(|set| {
            let loader = Esm2Loader::on_gpus(set.checkpoint.clone(), vec![0], dtype);
            if let (Dtype::Int8, Err(Error::NoInt8 { why, .. })) = (dtype, &loader) {
                let is_known = match why {
                    NoInt8::Shape { hidden_size, .. } => *hidden_size == 96,
                    NoInt8::Family(family) => *family == set.checkpoint.config().family(),
                    _ => false,
                };
                assert!(is_known, "{}: {why}", set.name);
                return None;
            }
            let loader = loader.expect("the weights can be read");
            let mut encoder = loader.load(Rank(0)).expect("the weights load");
            let batch = Arc::new(set.all());
            let encoded = encoder.encode(&batch).expect("the batch runs");
            let report = set.worst_cosines(&encoded.columns()[0], dtype);
            println!("{report}");
            (!report.is_close()).then(|| report.to_string())
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
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

/// The numbers of each sequence, in all outputs one after the other.
fn vectors_of(encoded: &EncodedBatch) -> Vec<Vec<f32>> {
    let of = |sequence| {
        let columns = encoded.columns().iter();
        columns
            .flat_map(|column| column.sequence(sequence))
            .collect()
    };
    (0..encoded.num_sequences()).map(of).collect()
}

fn bits(vector: &[f32]) -> Vec<u32> {
    vector.iter().map(|value| value.to_bits()).collect()
}

/// A sequence has the same bits alone and in batches of other sizes, orders and neighbours, in the
/// shapes of every model and in every format.
///
/// Encoders may take f32 for outputs of one token (`rows_too_coarse_in_16_bits_take_f32`), so the
/// model by itself gives these in 16 bits.
pub(crate) fn a_sequences_bits_are_its_own() {
    let mut lengths = vec![
        1, 2, 7, 13, 62, 63, 64, 126, 127, 128, 254, 255, 511, 1022, 2000,
    ];
    let mut random = SplitMix64::new(7);
    lengths.extend((0..25).map(|_| 1 + random.below(700) as usize));
    // In f32, so that no rounding hides what differs.
    let of_last_layer = |kinds: &[OutputKind]| {
        let outputs = OutputSet::new(kinds.iter().copied(), [Layer::LAST]);
        outputs.with_residues_dtype(Dtype::F32)
    };
    let of_esm1 = three_layers_of_esm1();
    for shape in RELEASED[..5].iter().chain(&of_esm1) {
        let most = Config::of_shape(shape).max_sequence_tokens();
        let fits = |residues: &usize| most.is_none_or(|most| residues + 2 <= most);
        let lengths = lengths.iter().copied().filter(fits);
        let sequences: Vec<(u64, usize)> = (0..).zip(lengths).collect();
        let checkpoint = Checkpoint::random(shape, 3);
        for dtype in [Dtype::Int8, Dtype::Bf16, Dtype::F16, Dtype::F32] {
            if dtype == Dtype::Int8 && !crate::has_int8() {
                continue;
            }
            let loader = match Esm2Loader::on_gpus(checkpoint.clone(), vec![0], dtype) {
                // Not every shape has this format.
                Err(Error::NoInt8 { .. }) => continue,
                loader => loader.expect("the weights can be read"),
            };
            let what = format!("{} in {dtype}", shape.name);
            let kinds = match dtype {
                Dtype::Int8 => &[OutputKind::Mean][..],
                Dtype::F32 => &OutputKind::ALL,
                Dtype::Bf16 | Dtype::F16 => &[OutputKind::Mean, OutputKind::Contacts],
            };
            let loader = loader
                .with_outputs(&of_last_layer(kinds))
                .expect("the last layer is there");
            let mut encoder = loader.load(Rank(0)).expect("the weights load");
            check_bits(&what, &sequences, &mut |batches| {
                let tickets: Vec<Ticket> = (batches.iter())
                    .map(|batch| encoder.submit(batch))
                    .collect();
                let finish = |ticket| encoder.finish(ticket).expect("the batch runs");
                tickets.into_iter().map(finish).collect()
            });
            drop(encoder);
            if matches!(dtype, Dtype::Bf16 | Dtype::F16) {
                let model = Esm2::on_gpu(&checkpoint, dtype, &gpu()).expect("the weights load");
                let outputs = of_last_layer(&OutputKind::ALL);
                check_bits(
                    &format!("{what}, all outputs"),
                    &sequences,
                    &mut |batches| {
                        let start = |batch| model.start(batch, &outputs).expect("the batch runs");
                        let started: Vec<Started> =
                            batches.iter().map(|batch| start(batch)).collect();
                        let finish = |started: Started| started.finish().expect("the batch runs");
                        let columns = started.into_iter().map(finish);
                        columns.map(EncodedBatch::new).collect()
                    },
                );
            }
        }
    }
}

/// Asserts that `encode`, which is given batches to submit one after the other, gives each of
/// `sequences` the same bits in all batches.
fn check_bits(
    what: &str,
    sequences: &[(u64, usize)],
    encode: &mut dyn FnMut(&[Arc<PackedBatch>]) -> Vec<EncodedBatch>,
) {
    // The sequences are in one batch, then each alone, then shuffled into batches of random sizes,
    // two submitted at a time.
    let mut batches = vec![sequences.to_vec()];
    batches.extend(sequences.iter().map(|sequence| vec![*sequence]));
    let mut random = SplitMix64::new(7);
    for _ in 0..3 {
        let mut shuffled = sequences.to_vec();
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, random.below(i as u64 + 1) as usize);
        }
        let mut rest = &shuffled[..];
        while !rest.is_empty() {
            let size = 1 + random.below(12) as usize;
            let (batch, others) = rest.split_at(size.min(rest.len()));
            batches.push(batch.to_vec());
            rest = others;
        }
    }
    let mut vectors: Vec<Option<Vec<u32>>> = vec![None; sequences.len()];
    for two in batches.chunks(2) {
        let packed: Vec<Arc<PackedBatch>> = two.iter().map(|batch| pack(batch)).collect();
        for (batch, encoded) in two.iter().zip(encode(&packed)) {
            for (&(row, residues), vector) in batch.iter().zip(vectors_of(&encoded)) {
                assert!(vector.iter().all(|value| value.is_finite()));
                let known = vectors[row as usize].get_or_insert_with(|| bits(&vector));
                assert!(
                    *known == bits(&vector),
                    "{what}: {residues} residues have other bits among {} sequences",
                    batch.len()
                );
            }
        }
    }
}

/// Compares each sequence with f32 on the same GPU, at the depths and widths that int8 is for, with
/// outlier channels.
pub(crate) fn int8_stays_close_to_f32_in_large_models() {
    let lengths = [
        1, 16, 17, 18, 20, 25, 30, 40, 50, 75, 100, 128, 200, 300, 500, 1022,
    ];
    let sequences: Vec<(u64, usize)> = (0..).zip(lengths.repeat(4)).collect();
    let batch = pack(&sequences);
    for shape in &RELEASED[3..5] {
        let checkpoint = Checkpoint::random(shape, 5);
        let encode = |dtype| {
            let loader = Esm2Loader::on_gpus(checkpoint.clone(), vec![0], dtype).expect("it loads");
            let mut encoder = loader.load(Rank(0)).expect("it loads");
            encoder.encode(&batch).expect("the batch runs")
        };
        let exact = encode(Dtype::F32);
        for (dtype, bound) in [
            (Dtype::Int8, 0.999),
            (Dtype::Bf16, 0.9999),
            (Dtype::F16, 0.9999),
        ] {
            let ours = encode(dtype);
            let (ours, exact) = (vectors_of(&ours), vectors_of(&exact));
            let cosines = ours.iter().zip(&exact).zip(&sequences);
            let (worst, residues) = cosines
                .map(|((ours, exact), &(_, residues))| {
                    let exact: Vec<f64> = exact.iter().copied().map(f64::from).collect();
                    (cosine(ours, &exact), residues)
                })
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .expect("there are sequences");
            println!("{} in {dtype}: {worst:.6} (at {residues})", shape.name);
            assert!(
                worst >= bound,
                "{} in {dtype}: {worst} at {residues}",
                shape.name
            );
        }
    }
}

/// All that can be asked of a model of a width whose layer norms are part of its products, in 16
/// bits beside f32, and of one with a feed-forward block that there are no such products for.
pub(crate) fn all_outputs_stay_close_to_f32() {
    let sequences = [(0, 30), (1, 200), (2, 9), (3, 513)];
    let batch = pack(&sequences);
    let with_odd_block = ModelShape {
        ffn_size: 4_072,
        ..THREE_LAYERS
    };
    let of_esm1 = three_layers_of_esm1();
    for shape in [&THREE_LAYERS, &with_odd_block].into_iter().chain(&of_esm1) {
        let checkpoint = Checkpoint::random(shape, 11);
        let (family, ffn_size) = (checkpoint.config().family(), shape.ffn_size);
        let layers: Vec<Layer> = (0..=shape.num_layers as i32).map(Layer).collect();
        let all = OutputSet::new(OutputKind::ALL, layers.iter().copied());
        let load = |dtype| Esm2::on_gpu(&checkpoint, dtype, &gpu()).expect("it loads");
        let exact = load(Dtype::F32);
        let specs = exact.output_specs(&all).expect("the model has all");
        let exact = exact.forward(&batch, &all).expect("it runs");
        for (dtype, bound) in [(Dtype::F16, 0.9999), (Dtype::Bf16, 0.999)] {
            let model = load(dtype);
            let ours = model.forward(&batch, &all).expect("it runs");
            for ((ours, exact), spec) in ours.iter().zip(&exact).zip(&specs) {
                let width = match spec.kind {
                    // A row of a map.
                    OutputKind::Contacts => None,
                    _ => Some(spec.width),
                };
                for (sequence, (_, residues)) in sequences.into_iter().enumerate() {
                    let width = width.unwrap_or(residues);
                    let (ours, exact) = (ours.sequence(sequence), exact.sequence(sequence));
                    let worst = worst_row(&ours, &exact, width);
                    let what = format!("{family} {} in {dtype}, {ffn_size} wide", spec.name());
                    println!("{what}: {worst:.6} at {residues} residues");
                    assert!(worst > bound, "{what}: {worst} at {residues} residues");
                }
            }
            for kind in OutputKind::ALL {
                for &layer in &layers {
                    let only = OutputSet::new([kind], [layer]);
                    let alone = model.forward(&batch, &only).expect("it runs");
                    let spec = &model.output_specs(&only).expect("the model has it")[0];
                    let among_all = specs.iter().position(|all| all == spec);
                    let among_all = &ours[among_all.expect("all are there")];
                    assert_eq!(alone[0].values(), among_all.values(), "{}", spec.name());
                }
            }
        }
    }
}

/// The lowest cosine of two rows of `width`.
pub(crate) fn worst_row(ours: &[f32], exact: &[f32], width: usize) -> f64 {
    assert_eq!(ours.len(), exact.len());
    let rows = ours.chunks_exact(width).zip(exact.chunks_exact(width));
    let cosines = rows.map(|(ours, exact)| {
        let exact: Vec<f64> = exact.iter().copied().map(f64::from).collect();
        // A NaN counts as the worst.
        cosine(ours, &exact).max(-1.0)
    });
    cosines.fold(1.0, f64::min)
}

pub(crate) fn all_outputs_stay_close_to_the_reference() {
    let formats = [Dtype::F32, Dtype::F16, Dtype::Bf16];
    let far = sets()
        .into_iter()
        .flat_map(|set| rows_far_from_the_reference(&set, &OutputKind::ALL, &formats));
    let far: Vec<String> = far.collect();
    assert!(far.is_empty(), "{}", far.join("\n"));
}

/// Tells the lowest cosine of each output, by row, to the float64 reference, as encoders of a run
/// give them: with residues in f16, of all `kinds` and layers at once, and of each kind of the last
/// layer alone, since what is asked for decides what takes f32. Returns what is told of those under
/// 0.9999.
pub(crate) fn rows_far_from_the_reference<C: FamilyCheckpoint + Clone>(
    set: &Set<C>,
    kinds: &[OutputKind],
    formats: &[Dtype],
) -> Vec<String> {
    let mut far = Vec::new();
    let batch = Arc::new(set.all());
    let layers = (0..=set.checkpoint.sizes().num_layers as i32).map(Layer);
    let all = OutputSet::new(kinds.iter().copied(), layers);
    let alone = kinds
        .iter()
        .map(|&kind| OutputSet::new([kind], [Layer::LAST]));
    let asked_for = Vec::from_iter(std::iter::once(all).chain(alone));
    for &dtype in formats {
        let loader = Loader::on_gpus(set.checkpoint.clone(), vec![0], dtype);
        let mut loader = loader.expect("the weights can be read");
        for outputs in &asked_for {
            loader = loader.with_outputs(outputs).expect("the model has all");
            let mut encoder = loader.load(Rank(0)).expect("the weights load");
            let encoded = encoder.encode(&batch).expect("the batch runs");
            let specs = &loader.spec().outputs;
            assert_eq!(encoded.check(specs, batch.residue_counts()), Ok(()));
            for (column, spec) in encoded.columns().iter().zip(specs) {
                let (worst, residues) = worst_of(set, column, spec, &batch);
                let report = format!(
                    "{} of {} in {dtype}, one of {} outputs: {worst:.6} (at {residues} residues), \
                     {} of {} sequences in f32",
                    spec.name(),
                    set.name,
                    specs.len(),
                    encoded.notes().len(),
                    batch.num_sequences(),
                );
                println!("{report}");
                if worst < 0.9999 {
                    far.push(report);
                }
            }
        }
    }
    far
}

/// Where rows of one token are too coarse in a 16-bit format, everything is computed in f32, bit
/// for bit as if f32 was asked for. Where they are not, nothing is, nor where none were asked for.
pub(crate) fn rows_too_coarse_in_16_bits_take_f32() {
    use OutputKind::{Bos, Contacts, Mean, Residues};
    let check = |set: &Set<Checkpoint>, dtype, kinds: &[OutputKind], takes_f32| {
        let outputs = OutputSet::new(kinds.iter().copied(), [Layer(1), Layer::LAST]);
        let batch = Arc::new(set.all());
        let what = format!("{kinds:?} of {} in {dtype}", set.name);
        let load = |dtype| {
            let loader = Esm2Loader::on_gpus(set.checkpoint.clone(), vec![0], dtype);
            let loader = loader.expect("the weights can be read");
            loader.with_outputs(&outputs).expect("the model has them")
        };
        let encode = |loader: &Esm2Loader| {
            let mut encoder = loader.load(Rank(0)).expect("the weights load");
            encoder.encode(&batch).expect("the batch runs")
        };
        let (loader, exact) = (load(dtype), encode(&load(Dtype::F32)));
        let ours = encode(&loader);
        // Encoders that are loaded later know what the first has measured.
        assert!(encode(&loader) == ours, "{what}");
        let noted: Vec<bool> = (0..batch.num_sequences())
            .map(|sequence| ours.note_of(sequence) == Some(&Note::InF32))
            .collect();
        let is_short = |residues| dtype == Dtype::Bf16 && residues < 8;
        let expected = batch
            .residue_counts()
            .map(|count| takes_f32 || is_short(count));
        assert_eq!(noted, Vec::from_iter(expected), "{what}");
        assert_eq!(ours.columns() == exact.columns(), takes_f32, "{what}");
        let is_measured = loader.spec().backend.ends_with(", measured 1");
        assert_eq!(
            is_measured,
            kinds.iter().any(|kind| !kind.averages_roundings())
        );
    };
    let (tiny, random) = (plm_tiny(), random("hd16"));
    for rows in [&OutputKind::ALL[..], &[Bos], &[Mean, Residues]] {
        check(&tiny, Dtype::F16, rows, false);
        check(&random, Dtype::Bf16, rows, true);
    }
    for set in [&tiny, &random] {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            check(set, dtype, &[Mean, Contacts], false);
        }
    }
}

/// The lowest cosine of a column's rows to the reference, and the residues of that protein. A row
/// of contacts is that of one residue.
fn worst_of<C: FamilyCheckpoint>(
    set: &Set<C>,
    column: &Column,
    spec: &OutputSpec,
    batch: &PackedBatch,
) -> (f64, u32) {
    let mut worst = (1.0, 0);
    for (sequence, residues) in batch.residue_counts().enumerate() {
        let Some(golden) = set.golden_of(sequence, spec) else {
            continue;
        };
        let width = match spec.kind {
            OutputKind::Contacts => residues as usize,
            _ => spec.width,
        };
        let exact: Vec<f32> = golden.iter().map(|&value| value as f32).collect();
        let row = worst_row(&column.sequence(sequence), &exact, width);
        if row < worst.0 {
            worst = (row, residues);
        }
    }
    worst
}

/// A masked token changes the embeddings of its sequence, and of no other. Batches with one take
/// another way through the first layer, if there are no learned positions.
pub(crate) fn a_masked_token_is_its_sequences_own() {
    for shape in [THREE_LAYERS].iter().chain(&three_layers_of_esm1()) {
        a_masked_token_is_its_own(shape);
    }
}

fn a_masked_token_is_its_own(shape: &ModelShape) {
    let plain = [(0, 30), (1, 200), (2, 513)];
    let known = (b'A'..=b'Z').filter_map(|letter| Some((letter, token_map().token_id(letter)?)));
    let mask = VOCABULARY.len() as u32 - 1;
    let with_mask = TokenMap::new(known.chain([(b'*', mask)]), Some(0), Some(2));
    let pack = |sequences: &[(u64, usize)]| {
        let mut packer = Packer::new(&with_mask, 1 << 24);
        for &(row, residues) in sequences {
            let mut residues = random_residues(row, residues);
            if row == 3 {
                residues[7] = b'*';
            }
            packer.push(RowId(row), &residues).expect("known letters");
        }
        packer.finish()
    };
    let checkpoint = Checkpoint::random(shape, 11);
    let has_int8 = crate::has_int8() && checkpoint.config().family() == "ESM-2";
    let vectors = |dtype, batch: &PackedBatch| -> Vec<Vec<f32>> {
        let model = Esm2::on_gpu(&checkpoint, dtype, &gpu()).expect("it loads");
        let columns = model.forward(batch, &OutputSet::default());
        let means = &columns.expect("it runs")[0];
        (0..means.num_sequences())
            .map(|sequence| means.sequence(sequence))
            .collect()
    };
    let masked = (3, 200);
    let exact = vectors(Dtype::F32, &pack(&[masked])).remove(0);
    let exact: Vec<f64> = exact.into_iter().map(f64::from).collect();
    for dtype in [Dtype::F16, Dtype::Bf16, Dtype::Int8] {
        if dtype == Dtype::Int8 && !has_int8 {
            continue;
        }
        let alone = vectors(dtype, &pack(&plain));
        let mut beside = vectors(dtype, &pack(&[plain[0], plain[1], masked, plain[2]]));
        let ours = beside.remove(2);
        for (beside, alone) in beside.iter().zip(&alone) {
            assert!(bits(beside) == bits(alone), "{dtype}");
        }
        let masked_alone = vectors(dtype, &pack(&[masked])).remove(0);
        assert!(bits(&ours) == bits(&masked_alone), "{dtype}");
        let cosine = cosine(&ours, &exact);
        assert!(cosine > 0.999, "{dtype}: {cosine}");
    }
}

/// A model with fewer positions than the proteins that formats are measured with has tokens loads,
/// takes a sequence with a token for each position, and refuses a longer one.
pub(crate) fn a_model_of_few_positions_loads_and_refuses_longer_sequences() {
    let shape = ModelShape {
        name: "few positions",
        num_layers: 2,
        hidden_size: 64,
        num_heads: 2,
        ffn_size: 256,
        positions: Positions::Learned {
            rows: 42,
            has_norm: true,
        },
    };
    let checkpoint = Checkpoint::random(&shape, 11);
    let batch = pack(&[(0, 38), (1, 12), (2, 1)]);
    let all = OutputSet::new(OutputKind::ALL, [Layer(0), Layer::LAST]);
    let exact = Esm2::new(&checkpoint, Dtype::F32).expect("it loads");
    let exact = exact.forward(&batch, &all).expect("it runs");
    for (dtype, bound) in [
        (Dtype::F32, 0.999_999),
        (Dtype::F16, 0.9999),
        (Dtype::Bf16, 0.999),
    ] {
        let loader = Esm2Loader::on_gpus(checkpoint.clone(), vec![0], dtype)
            .and_then(|loader| loader.with_outputs(&all))
            .expect("the weights can be read");
        let mut encoder = loader.load(Rank(0)).expect("the weights load");
        let encoded = encoder.encode(&batch).expect("the batch runs");
        for (ours, (exact, spec)) in
            (encoded.columns().iter()).zip(exact.iter().zip(&loader.spec().outputs))
        {
            let width = match spec.kind {
                OutputKind::Contacts => 38,
                _ => spec.width,
            };
            let worst = worst_row(&ours.sequence(0), &exact.sequence(0), width);
            println!("{} of few positions in {dtype}: {worst:.6}", spec.name());
            assert!(worst > bound, "{} in {dtype}: {worst}", spec.name());
        }
        let refusal = encoder
            .encode(&pack(&[(0, 39)]))
            .expect_err("it is too long");
        let words = "has positions for 40 tokens, and a sequence has 41";
        assert!(refusal.to_string().contains(words), "{refusal}");
    }
}

pub(crate) fn what_f16_cannot_hold_is_computed_in_f32() {
    use OutputKind::{Contacts, Mean, Residues};
    let (checkpoint, _files) = crate::overflow::checkpoint();
    let batch = pack(&[(0, 30), (1, 200), (2, 9)]);
    let notes = |kinds: &[OutputKind]| {
        let outputs = OutputSet::new(kinds.iter().copied(), [Layer::LAST]);
        let outputs = outputs.with_residues_dtype(Dtype::F32);
        let encode = |dtype| {
            let loader = Esm2Loader::on_gpus(checkpoint.clone(), vec![0], dtype);
            let loader = loader.expect("the weights can be read");
            let loader = loader.with_outputs(&outputs).expect("the model has them");
            let mut encoder = loader.load(Rank(0)).expect("the weights load");
            encoder.encode(&batch).expect("the batch runs")
        };
        let (f32, f16, bf16) = (encode(Dtype::F32), encode(Dtype::F16), encode(Dtype::Bf16));
        let exact = vectors_of(&f32);
        assert!(exact.iter().flatten().all(|value| value.is_finite()));
        assert_eq!(vectors_of(&f16), exact);
        assert!(f16.notes().all(|(_, note)| *note == Note::InF32));
        (f16.notes().len(), f32.notes().len(), bf16.notes().len())
    };
    // Sequence by sequence: columns of all shapes are replaced.
    assert_eq!(notes(&[Mean, Contacts]), (3, 0, 0));
    // From the start: no row that was measured is finite.
    let (f16, f32, _) = notes(&[Mean, Residues, Contacts]);
    assert_eq!((f16, f32), (3, 0));
}

/// Takes memory until a batch does not fit but its halves do.
pub(crate) fn a_batch_without_room_is_halved() {
    let checkpoint = Checkpoint::random(&RELEASED[2], 3);
    let loader = Esm2Loader::on_gpus(checkpoint, vec![0], Dtype::Bf16).expect("it loads");
    let mut encoder = loader.load(Rank(0)).expect("it loads");
    // 2,560 inner numbers of 2 bytes a token, and as much again around them: some GiB for a million
    // tokens.
    let sequences: Vec<(u64, usize)> = (0..2_000).map(|row| (row, 498)).collect();
    let first = encoder
        .encode(&pack(&sequences[..20]))
        .expect("the batch runs");
    let gpu = gpu();
    let hog = leave_free(&gpu, 4 << 30);
    let all = encoder
        .encode(&pack(&sequences))
        .expect("it is halved until it fits");
    // No halving helps this batch. It stands between two that fit.
    let long = encoder
        .encode(&pack(&[(0, 498), (1, 1_500_000), (2, 498)]))
        .expect("the others fit");
    drop(hog);
    let notes: Vec<_> = long.notes().collect();
    let [(1, Note::Failed(reason))] = &notes[..] else {
        panic!("{notes:?}");
    };
    assert!(
        reason.contains("cuda:0 has no room for its 1500002 tokens"),
        "{reason}"
    );
    assert_eq!(all.notes().len(), 0);
    let [first, all, long] = [&first, &all, &long].map(vectors_of);
    assert_eq!(long[0], first[0]);
    assert_eq!(all[..first.len()], first);
}

/// Sequences of under 8 residues are computed again in f32 in bf16, those of under 17 in int8, and
/// no others.
pub(crate) fn short_sequences_take_f32() {
    let set = random("hd64");
    let batch = pack(&[(0, 7), (1, 8), (2, 100), (3, 1), (4, 16), (5, 17)]);
    let encode = |dtype| {
        let loader = Esm2Loader::on_gpus(set.checkpoint.clone(), vec![0], dtype).expect("it loads");
        let mut encoder = loader.load(Rank(0)).expect("it loads");
        encoder.encode(&batch).expect("the batch runs")
    };
    let exact = encode(Dtype::F32);
    let expected: [(Dtype, &[usize]); 4] = [
        (Dtype::F32, &[]),
        (Dtype::F16, &[]),
        (Dtype::Bf16, &[0, 3]),
        (Dtype::Int8, &[0, 1, 3, 4]),
    ];
    for (dtype, short) in expected {
        if dtype == Dtype::Int8 && !crate::has_int8() {
            continue;
        }
        let ours = encode(dtype);
        let noted: Vec<usize> = ours.notes().map(|(sequence, _)| sequence).collect();
        assert_eq!(noted, short, "{dtype}");
        let both = vectors_of(&ours).into_iter().zip(vectors_of(&exact));
        for (sequence, (ours, exact)) in both.enumerate() {
            assert_eq!(
                ours == exact,
                dtype == Dtype::F32 || short.contains(&sequence),
                "sequence {sequence} in {dtype}"
            );
        }
    }
}

/// Only the last layer's vectors are the model's.
pub(crate) fn int8_has_no_layer_but_the_last() {
    let checkpoint = random("hd64").checkpoint;
    let loader = Esm2Loader::on_gpus(checkpoint.clone(), vec![0], Dtype::Int8).expect("it loads");
    let first = OutputSet::new([OutputKind::Mean], [Layer(1)]);
    let refusal = loader.with_outputs(&first).map(|_| ()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "hd64 can't be computed in int8 at layer 1, only at the last: use f16, bf16 or f32"
    );
    let model = Esm2::on_gpu(&checkpoint, Dtype::Int8, &gpu()).expect("it loads");
    let refusal = model.forward(&pack(&[(0, 30)]), &first);
    assert!(matches!(
        refusal,
        Err(Error::NoInt8 {
            why: NoInt8::Layer(1),
            ..
        })
    ));
}

pub(crate) fn a_gpu_without_room_is_refused() {
    let gpu = gpu();
    let checkpoint = Checkpoint::random(&RELEASED[3], 3);
    let loader = Esm2Loader::on_gpus(checkpoint, vec![0], Dtype::Bf16).expect("it loads");
    let hog = leave_free(&gpu, 1 << 30);
    let refusal = loader.load(Rank(0)).err().map(|error| error.to_string());
    drop(hog);
    let refusal = refusal.expect("1.2 GiB do not fit 1 GiB");
    assert!(
        refusal.contains("cuda:0") && refusal.contains("GiB free"),
        "{refusal}"
    );
}

/// bf16 alone would fit.
pub(crate) fn a_gpu_without_room_to_measure_is_refused() {
    let gpu = gpu();
    let checkpoint = Checkpoint::random(&RELEASED[3], 3);
    let loader = Esm2Loader::on_gpus(checkpoint, vec![0], Dtype::Bf16).expect("it loads");
    let hog = leave_free(&gpu, 2 << 30);
    let means = loader.load(Rank(0)).err();
    let bos = OutputSet::new([OutputKind::Bos], [Layer::LAST]);
    let loader = loader.with_outputs(&bos).expect("the GPU is large enough");
    let refusal = loader.load(Rank(0)).err().map(|error| error.to_string());
    drop(hog);
    assert!(means.is_none(), "{means:?}");
    let refusal = refusal.expect("2.4 GiB do not fit 2 GiB");
    assert!(
        refusal.contains("in bf16 is compared with f32") && refusal.contains("GiB free"),
        "{refusal}"
    );
}

/// Takes a GPU's memory but for about `bytes`.
fn leave_free(gpu: &Gpu, bytes: u64) -> Vec<Tensor> {
    const PIECE: u64 = 1 << 28;
    let mut taken = Vec::new();
    while gpu.memory().expect("the driver answers").free_bytes >= bytes + PIECE {
        let piece = Tensor::zeros(PIECE as usize, DType::U8, gpu.device());
        taken.push(piece.expect("it is free"));
    }
    taken
}
