//! A sequence's vector has the same bits, whatever is beside it and however it is computed.

use std::path::Path;
use std::sync::Arc;

use plm_core::{
    Column, Dtype, EncoderLoader, Layer, OutputKind, OutputSet, PackedBatch, Packer, Rank, RowId,
    TokenMap,
};
use plm_esm2::{
    Checkpoint, CpuOptions, Esm2, Esm2Loader, ModelShape, RELEASED, output_specs, token_map,
};
use rayon::ThreadPoolBuilder;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn protein(&mut self, residue_count: usize) -> Vec<u8> {
        let letters = b"LAGVSERTIDPKQNFYMHWCXBUZO.-";
        let residue = |_| letters[self.below(letters.len())];
        (0..residue_count).map(residue).collect()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

fn pack<'a>(proteins: impl IntoIterator<Item = &'a Vec<u8>>) -> PackedBatch {
    let tokens = token_map();
    let mut packer = Packer::new(&tokens, 1 << 20);
    for protein in proteins {
        packer.push(RowId(0), protein).unwrap();
    }
    packer.finish()
}

/// All outputs of a model for one sequence of a batch, as bits.
fn bits(columns: &[Column], position: usize) -> Vec<u32> {
    let values = columns.iter().flat_map(|column| column.sequence(position));
    values.map(f32::to_bits).collect()
}

/// Every output of the embedding, of the first layer and of the last one.
fn everything() -> OutputSet {
    let layers = [Layer(0), Layer(1), Layer::LAST];
    OutputSet::new(OutputKind::ALL, layers).with_residues_dtype(Dtype::F32)
}

/// Compares every protein alone on one thread with the same protein in shuffled batches on several.
fn assert_invariant(checkpoint: &Checkpoint, residue_counts: &[usize], rounds: usize) {
    let model = Esm2::new(checkpoint, Dtype::F32).unwrap();
    let outputs = everything();
    let mut random = Random(1);
    let proteins: Vec<Vec<u8>> = residue_counts.iter().map(|&n| random.protein(n)).collect();
    let pool = |threads| {
        ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    let alone: Vec<Vec<u32>> = pool(1).install(|| {
        let alone = proteins
            .iter()
            .map(|protein| bits(&model.forward(&pack([protein]), &outputs).unwrap(), 0));
        alone.collect()
    });
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..proteins.len()).collect();
        random.shuffle(&mut order);
        // Some neighbours are missing, and some are there twice.
        order.truncate(1 + random.below(proteins.len()));
        order.push(order[0]);
        let batch = pack(order.iter().map(|&protein| &proteins[protein]));
        let together = pool(1 + round % 3).install(|| model.forward(&batch, &outputs).unwrap());
        for (position, &protein) in order.iter().enumerate() {
            assert!(
                bits(&together, position) == alone[protein],
                "{}: {} residues at {position} of {} in round {round}",
                checkpoint.name(),
                residue_counts[protein],
                order.len()
            );
        }
    }
}

/// Sequences of one residue, on both sides of every block size, and longer than a piece of a batch.
const RESIDUE_COUNTS: [usize; 24] = [
    1, 1, 2, 3, 5, 9, 14, 15, 17, 30, 48, 61, 62, 63, 64, 90, 127, 131, 166, 200, 255, 382, 511,
    700,
];

#[test]
fn neighbours_order_and_threads_do_not_change_a_bit() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens");
    assert_invariant(&Checkpoint::plm_tiny(), &RESIDUE_COUNTS, 8);
    for name in ["hd16", "hd24", "hd32", "hd64", "hd128", "esm1b", "esm1v"] {
        assert_invariant(
            &Checkpoint::open(goldens.join(name)).unwrap(),
            &RESIDUE_COUNTS,
            8,
        );
    }
}

/// A table of positions may be shorter than what fills up a small batch.
#[test]
fn neighbours_do_not_change_a_bit_of_few_positions() {
    let pickles = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/pickles");
    for name in ["esm1b", "esm1v"] {
        let checkpoint = Checkpoint::open(pickles.join(name).join("reference")).unwrap();
        assert_invariant(&checkpoint, &[1, 2, 3, 7, 20, 37, 38, 38], 8);
    }
}

#[test]
fn neighbours_do_not_change_a_bit_of_the_8m_shape() {
    let checkpoint = Checkpoint::random(&RELEASED[0], 7);
    assert_invariant(&checkpoint, &[1, 2, 7, 49, 62, 63, 100, 166, 420], 4);
}

/// The language-model head's decoder has 33 outputs and, from 650M on, over 512 inputs. With this
/// shape, the order of a product depends on its rows earliest.
#[test]
fn neighbours_do_not_change_a_bit_of_wide_models() {
    let shape = ModelShape {
        name: "one layer of 650M",
        num_layers: 1,
        ..RELEASED[3]
    };
    assert_invariant(&Checkpoint::random(&shape, 7), &[1, 20, 62, 63, 90], 4);
}

#[test]
fn ranks_agree_with_the_model_and_each_other() {
    let lanes = 3.try_into().unwrap();
    let options = CpuOptions {
        lanes,
        total_threads: 4.try_into().unwrap(),
    };
    let checkpoint = Checkpoint::plm_tiny();
    let model = Esm2::new(&checkpoint, Dtype::F32).unwrap();
    let mut random = Random(3);
    let proteins = [40, 1, 400, 7].map(|residue_count| random.protein(residue_count));
    let batch = Arc::new(pack(&proteins));
    let load = |outputs: &OutputSet| {
        let loader = Esm2Loader::new(checkpoint.clone(), options, Dtype::F32).unwrap();
        loader.with_outputs(outputs)
    };
    for outputs in [
        OutputSet::default(),
        OutputSet::new(
            [OutputKind::Bos, OutputKind::Mean],
            [Layer(2), Layer(-1), Layer(0)],
        ),
        OutputSet::new(OutputKind::ALL, [Layer(2), Layer(-1), Layer(0)]),
        everything(),
    ] {
        let loader = load(&outputs).unwrap();
        let specs = &loader.spec().outputs;
        let named = specs.iter().map(|spec| (spec.kind, spec.layer)).collect();
        assert_eq!(outputs.resolve(6), Ok(named));
        let expected = model.forward(&batch, &outputs).unwrap();
        for rank in 0..3 {
            let encoded = loader.load(Rank(rank)).unwrap().encode(&batch).unwrap();
            encoded.check(specs, batch.residue_counts()).unwrap();
            assert_eq!(encoded.columns(), expected);
        }
    }
    for layer in [7, -8] {
        let refusal = load(&OutputSet::new([OutputKind::Bos], [Layer(layer)]));
        let Err(plm_esm2::Error::NoSuchLayer { layer: refused, .. }) = refusal else {
            panic!("layer {layer} was not refused");
        };
        assert_eq!(refused, Layer(layer));
    }
}

#[test]
fn int8_gives_the_mean_of_the_last_layer_and_refuses_the_rest() {
    let checkpoint = Checkpoint::plm_tiny();
    let specs = |kind, layer| {
        let outputs = OutputSet::new([OutputKind::Mean, kind], [Layer::LAST, layer]);
        output_specs(&checkpoint, Dtype::Int8, &outputs)
    };
    assert_eq!(specs(OutputKind::Mean, Layer(6)).unwrap().len(), 1);
    for (kind, layer, why) in [
        (OutputKind::Mean, Layer(2), "at layer 2, only at the last"),
        (OutputKind::Bos, Layer(6), "for bos, only for mean"),
        (OutputKind::Max, Layer(6), "for max, only for mean"),
        (
            OutputKind::Residues,
            Layer(6),
            "for residues, only for mean",
        ),
        (OutputKind::Logits, Layer(6), "for logits, only for mean"),
        (
            OutputKind::Contacts,
            Layer(6),
            "for contacts, only for mean",
        ),
    ] {
        let refusal = specs(kind, layer).unwrap_err().to_string();
        let words = format!("plm-tiny can't be computed in int8 {why}");
        assert!(refusal.starts_with(&words), "{refusal}");
    }
}

/// f16 rows are those in f32, rounded once.
#[test]
fn what_is_kept_in_f16_is_rounded_once() {
    let model = Esm2::new(&Checkpoint::plm_tiny(), Dtype::F32).unwrap();
    let mut random = Random(5);
    let batch = pack(&[40, 1, 400].map(|residue_count| random.protein(residue_count)));
    let in_f32 = model.forward(&batch, &everything()).unwrap();
    let in_f16 = model.forward(&batch, &everything().with_residues_dtype(Dtype::F16));
    for (exact, rounded) in in_f32.iter().zip(in_f16.unwrap()) {
        for sequence in 0..3 {
            let mut expected = exact.sequence(sequence);
            if rounded.dtype() == Dtype::F16 {
                let round = |value: &mut f32| *value = half::f16::from_f32(*value).to_f32();
                expected.iter_mut().for_each(round);
            }
            assert_eq!(rounded.sequence(sequence), expected);
        }
    }
}

#[test]
fn an_empty_batch_gives_nothing() {
    let model = Esm2::new(&Checkpoint::plm_tiny(), Dtype::F32).unwrap();
    let outputs = OutputSet::new(OutputKind::ALL, [Layer::LAST]);
    let columns = model.forward(&pack([]), &outputs).unwrap();
    let specs = model.output_specs(&outputs).unwrap();
    assert_eq!((columns.len(), specs.len()), (6, 6));
    for (column, spec) in columns.iter().zip(&specs) {
        assert_eq!(column.check(spec, std::iter::empty()), Ok(()));
    }
}

#[test]
fn a_batch_of_another_alphabet_is_refused() {
    let tokens = TokenMap::new([(b'A', 33)], None, None);
    let mut packer = Packer::new(&tokens, 10);
    packer.push(RowId(0), b"AA").unwrap();
    let model = Esm2::new(&Checkpoint::plm_tiny(), Dtype::F32).unwrap();
    let refusal = model.forward(&packer.finish(), &OutputSet::default());
    assert!(matches!(
        refusal,
        Err(plm_esm2::Error::UnknownToken { id: 33, .. })
    ));
}

#[test]
fn a_shape_without_gpu_kernels_is_refused_before_its_weights_are_read() {
    let shape = ModelShape {
        name: "odd",
        num_layers: 1,
        hidden_size: 80,
        num_heads: 4,
        ffn_size: 160,
        ..RELEASED[0]
    };
    let refusal = Esm2Loader::on_gpus(Checkpoint::random(&shape, 1), vec![0], Dtype::F32);
    assert!(matches!(
        refusal,
        Err(plm_esm2::Error::NoGpuKernel { head_dim: 20, .. })
    ));
}

#[test]
fn a_shape_that_has_no_int8_is_refused_before_its_weights_are_read() {
    for (hidden_size, ffn_size) in [(96, 384), (192, 800), (448, 1792)] {
        let shape = ModelShape {
            name: "odd",
            num_layers: 1,
            hidden_size,
            num_heads: hidden_size / 16,
            ffn_size,
            ..RELEASED[0]
        };
        let refusal = Esm2Loader::on_gpus(Checkpoint::random(&shape, 1), vec![0], Dtype::Int8)
            .map(|_| ())
            .unwrap_err();
        let expected = format!(
            "odd-random-1 can't be computed in int8: there are no kernels for a hidden_size of {hidden_size} with an \
             intermediate_size of {ffn_size}: use f16, bf16 or f32"
        );
        assert_eq!(refusal.to_string(), expected);
    }
}
