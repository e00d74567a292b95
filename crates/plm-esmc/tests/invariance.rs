//! A sequence's vector has the same bits, whatever is beside it and however it is computed.

use std::path::Path;
use std::sync::Arc;

use plm_core::{
    Column, Dtype, EncoderLoader, Layer, OutputKind, OutputSet, PackedBatch, Packer, Rank, RowId,
};
use plm_encoder::SplitMix64;
use plm_esmc::{
    Checkpoint, CpuOptions, Error, Esmc, EsmcLoader, ModelShape, NoInt8, RELEASED, output_specs,
    token_map,
};

fn golden(name: &str) -> Checkpoint {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/esmc");
    Checkpoint::open(goldens.join(name)).unwrap()
}

fn below(random: &mut SplitMix64, limit: usize) -> usize {
    (random.bits() % limit as u64) as usize
}

fn protein(random: &mut SplitMix64, residue_count: usize) -> Vec<u8> {
    let letters = b"LAGVSERTIDPKQNFYMHWCXBUZO.-|";
    let residue = |_| letters[below(random, letters.len())];
    (0..residue_count).map(residue).collect()
}

fn pack<'a>(proteins: impl IntoIterator<Item = &'a Vec<u8>>) -> PackedBatch {
    let tokens = token_map();
    let mut packer = Packer::new(&tokens, 1 << 20);
    for protein in proteins {
        packer.push(RowId(0), protein).unwrap();
    }
    packer.finish()
}

/// Every output of the embedding, of the first layer and of the last one.
fn everything() -> OutputSet {
    let kinds = OutputKind::ALL.into_iter();
    let kinds = kinds.filter(|&kind| kind != OutputKind::Contacts);
    OutputSet::new(kinds, [Layer(0), Layer(1), Layer::LAST]).with_residues_dtype(Dtype::F32)
}

/// All outputs of a model for one sequence of a batch, as bits.
fn bits(columns: &[Column], position: usize) -> Vec<u32> {
    let values = columns.iter().flat_map(|column| column.sequence(position));
    values.map(f32::to_bits).collect()
}

/// Compares every protein alone with the same protein in shuffled batches.
fn assert_invariant(checkpoint: &Checkpoint, residue_counts: &[usize], rounds: usize) {
    let model = Esmc::new(checkpoint, Dtype::F32).unwrap();
    let outputs = everything();
    let mut random = SplitMix64(1);
    let proteins: Vec<Vec<u8>> = (residue_counts.iter())
        .map(|&count| protein(&mut random, count))
        .collect();
    let alone: Vec<Vec<u32>> = proteins
        .iter()
        .map(|protein| bits(&model.forward(&pack([protein]), &outputs).unwrap(), 0))
        .collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..proteins.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, below(&mut random, i + 1));
        }
        // Some neighbours are missing, and some are there twice.
        order.truncate(1 + below(&mut random, proteins.len()));
        order.push(order[0]);
        let batch = pack(order.iter().map(|&protein| &proteins[protein]));
        let together = model.forward(&batch, &outputs).unwrap();
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

#[test]
fn neighbours_and_order_do_not_change_a_bit() {
    let residue_counts = [
        1, 1, 2, 3, 5, 9, 14, 15, 17, 30, 48, 61, 62, 63, 64, 90, 127, 131, 200, 382, 511, 700,
    ];
    for name in ["hd32", "hd64"] {
        assert_invariant(&golden(name), &residue_counts, 8);
    }
}

#[test]
fn neighbours_do_not_change_a_bit_of_wide_models() {
    let shape = ModelShape {
        name: "one layer of 300M",
        num_layers: 1,
        ..RELEASED[0]
    };
    assert_invariant(&Checkpoint::random(&shape, 7), &[1, 20, 62, 63, 90], 4);
}

#[test]
fn ranks_agree_with_the_model() {
    let options = CpuOptions {
        lanes: 2.try_into().unwrap(),
        total_threads: 2.try_into().unwrap(),
    };
    let checkpoint = golden("hd32");
    let model = Esmc::new(&checkpoint, Dtype::F32).unwrap();
    let mut random = SplitMix64(3);
    let batch = Arc::new(pack(&[40, 1, 400].map(|count| protein(&mut random, count))));
    let expected = model.forward(&batch, &everything()).unwrap();
    let loader = EsmcLoader::new(checkpoint, options, Dtype::F32).unwrap();
    let loader = loader.with_outputs(&everything()).unwrap();
    assert!(loader.spec().backend.ends_with(", numerics 2"));
    for rank in 0..2 {
        let encoded = loader.load(Rank(rank)).unwrap().encode(&batch).unwrap();
        let specs = &loader.spec().outputs;
        encoded.check(specs, batch.residue_counts()).unwrap();
        assert_eq!(encoded.columns(), expected);
    }
}

#[test]
fn logits_are_64_wide_and_the_rest_is_as_wide_as_the_model() {
    let specs = output_specs(&golden("hd64"), Dtype::F32, &everything()).unwrap();
    for spec in specs {
        let width = match spec.kind {
            OutputKind::Logits => 64,
            _ => 128,
        };
        assert_eq!(spec.width, width, "{}", spec.name());
    }
}

#[test]
fn contacts_int8_and_layers_that_are_not_there_are_refused() {
    let checkpoint = golden("hd32");
    let refusal = |kind, layer| {
        let outputs = OutputSet::new([kind], [layer]);
        let refusal = output_specs(&checkpoint, Dtype::F32, &outputs).unwrap_err();
        refusal.to_string()
    };
    assert_eq!(
        refusal(OutputKind::Contacts, Layer::LAST),
        "hd32 has no contact head, as no ESM C has, so it gives no contacts"
    );
    assert_eq!(
        refusal(OutputKind::Mean, Layer(4)),
        "hd32 has no layer 4: it has 0 (the embedding) to 3, or -1 (the last) to -4"
    );
    let refusal = Esmc::new(&checkpoint, Dtype::Int8).unwrap_err();
    assert!(matches!(
        refusal,
        Error::NoInt8 {
            why: NoInt8::Family("ESM C"),
            ..
        }
    ));
    assert_eq!(
        refusal.to_string(),
        "hd32 can't be computed in int8, as no ESM C can: use f16, bf16 or f32"
    );
}

#[test]
fn rows_that_no_token_has_are_in_the_vocabulary_and_others_are_refused() {
    let model = Esmc::new(&golden("hd32"), Dtype::F32).unwrap();
    let forward = |id| {
        let tokens = plm_core::TokenMap::new([(b'A', id)], Some(0), Some(2));
        let mut packer = Packer::new(&tokens, 10);
        packer.push(RowId(0), b"AA").unwrap();
        model.forward(&packer.finish(), &OutputSet::default())
    };
    assert!(forward(63).is_ok());
    let refusal = forward(64).unwrap_err();
    assert!(matches!(refusal, Error::UnknownToken { id: 64, .. }));
}
