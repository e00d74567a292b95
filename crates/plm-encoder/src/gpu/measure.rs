//! Whether a 16-bit format comes close enough to f32 with a model's weights. It is measured before
//! the first batch, with proteins that are the same on every machine.
//!
//! In outputs whose rows are of one token (see [`OutputKind::averages_roundings`]), no rounding
//! averages out, and the weights decide how much is left of it: `docs/numerics.md` has figures. Of
//! some families, means are measured too.
//! This module must not know GPUs, nor how anything is loaded.

use plm_core::policies::{LowestCosine, lowest_cosine};
use plm_core::{Dtype, EncodedBatch, OutputKind, OutputSet, OutputSpec, PackedBatch};
use plm_core::{Packer, RowId, TokenMap};

use crate::{FamilyCheckpoint, SplitMix64};

/// The least cosine to f32 that every measured row has, or all is computed in f32. Rows are
/// promised 0.9999, and those of other proteins may be worse than the worst that was measured. So
/// a measured row may be a fifth as far from f32 as the promise allows.
const LEAST_COSINE: f64 = 0.99998;

/// It changes whenever a new version may decide otherwise for the same weights. It is part of the
/// fingerprint.
pub(super) const RULE: u32 = 1;

/// The residues of the proteins that are measured. There are ten thousand together, since the worst
/// of fewer rows says too little: of 2,000 rows of a random model, it differed sixfold from one
/// draw to the next.
const RESIDUE_COUNTS: [usize; 15] = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987];

/// The lengths of the pieces that the proteins of each count repeat; `None` if they repeat nothing.
/// The trained plm-tiny has its worst rows in repeats, and natural proteins have some.
const REPEATED: [Option<usize>; 4] = [None, None, None, Some(3)];

/// More tokens than all proteins have.
const MOST_TOKENS: usize = 1 << 14;

/// The twenty amino acids of the genetic code.
const AMINO_ACIDS: &[u8; 20] = b"ACDEFGHIKLMNPQRSTVWY";

/// Which outputs are measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// The number format of the model.
    dtype: Dtype,
    /// As [`FamilyCheckpoint::keeps_means`] says.
    keeps_means: bool,
}

impl Measured {
    /// Of a model in `dtype`.
    pub(super) fn of(checkpoint: &dyn FamilyCheckpoint, dtype: Dtype) -> Self {
        Self {
            dtype,
            keeps_means: checkpoint.keeps_means(dtype),
        }
    }

    /// Those among `specs`, in f32, so that only what the model rounds is seen; none if nothing
    /// needs to be measured.
    pub(super) fn specs(self, specs: &[OutputSpec]) -> Vec<OutputSpec> {
        let measured = specs.iter().filter(|spec| self.is_measured(spec.kind));
        let in_f32 = |spec: &OutputSpec| OutputSpec {
            dtype: Dtype::F32,
            ..spec.clone()
        };
        measured.map(in_f32).collect()
    }

    /// As [`specs`](Self::specs), of what was asked for.
    pub(super) fn outputs(self, outputs: &OutputSet) -> Option<OutputSet> {
        let measured = outputs.only(|kind| self.is_measured(kind))?;
        Some(measured.with_residues_dtype(Dtype::F32))
    }

    /// int8 has bounds of its own, and gives means alone.
    fn is_measured(self, kind: OutputKind) -> bool {
        matches!(self.dtype, Dtype::F16 | Dtype::Bf16)
            && !(self.keeps_means && kind.averages_roundings())
    }
}

/// The fewest residues of sequences that a model in `dtype` computes itself. Shorter ones are
/// computed in f32: in their means, too few roundings average out.
pub(super) fn min_residues(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F32 | Dtype::F16 => 0,
        Dtype::Bf16 => 8,
        Dtype::Int8 => 17,
    }
}

/// The proteins that are measured for a model in `dtype` with this alphabet, whose sequences may
/// have at most `max_tokens`, in one batch: pseudo-random ones, of lengths that the model computes
/// itself. There are none if it computes no sequence itself.
pub(super) fn proteins(tokens: &TokenMap, max_tokens: Option<usize>, dtype: Dtype) -> PackedBatch {
    let special_tokens = tokens.special_tokens() as usize;
    let counts = RESIDUE_COUNTS.iter().copied().filter(|&count| {
        count >= min_residues(dtype) as usize
            && max_tokens.is_none_or(|most| count + special_tokens <= most)
    });
    let proteins = counts.flat_map(|count| REPEATED.map(|repeated| (count, repeated)));
    let mut packer = Packer::new(tokens, MOST_TOKENS);
    let mut random = SplitMix64(0);
    for ((count, repeated), row) in proteins.zip(0..) {
        let piece: Vec<u8> = (0..repeated.unwrap_or(count))
            .map(|_| AMINO_ACIDS[((random.bits() >> 32) % 20) as usize])
            .collect();
        let residues: Vec<u8> = piece.into_iter().cycle().take(count).collect();
        packer
            .push(RowId(row), &residues)
            .expect("every model knows the twenty amino acids, and there is room");
    }
    packer.finish()
}

/// Loads the model that a rank computes with, in `dtype` or in f32. Returns it, and why it is in
/// f32 if it is: the row that is farthest from f32 in `dtype`.
///
/// `load` is given a format, and that row if it is known. Its first model is in f32 and gives
/// the values to compare with. Each model is dropped before the next is loaded. `encode` gives the
/// measured outputs of the proteins, which are `specs`.
///
/// # Errors
/// Any error of `load` and `encode`.
pub(super) fn choose<M, E>(
    dtype: Dtype,
    specs: &[OutputSpec],
    load: impl Fn(Dtype, Option<LowestCosine>) -> Result<M, E>,
    encode: impl Fn(&M) -> Result<EncodedBatch, E>,
) -> Result<(M, Option<LowestCosine>), E> {
    let exact = encode(&load(Dtype::F32, None)?)?;
    let model = load(dtype, None)?;
    let lowest = lowest_cosine(&encode(&model)?, &exact, specs);
    match lowest.filter(|lowest| lowest.cosine < LEAST_COSINE) {
        None => Ok((model, None)),
        too_coarse => {
            drop(model);
            Ok((load(Dtype::F32, too_coarse)?, too_coarse))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use plm_core::{Column, Layer};

    use super::*;

    /// A model that counts how many there are.
    struct Fake<'a> {
        dtype: Dtype,
        alive: &'a Cell<usize>,
    }

    impl Drop for Fake<'_> {
        fn drop(&mut self) {
            self.alive.set(self.alive.get() - 1);
        }
    }

    fn specs() -> [OutputSpec; 1] {
        [OutputSpec::new(OutputKind::Mean, 0, 2)]
    }

    /// The format that is chosen for f16 if f16 gives these rows where f32 gives `[1, 0]`, why it
    /// is chosen, and the formats that were loaded.
    fn chosen(in_f16: [f32; 2]) -> (Dtype, Option<f64>, Vec<Dtype>) {
        let alive = Cell::new(0);
        let loaded = RefCell::new(vec![]);
        let load = |dtype, too_coarse: Option<LowestCosine>| -> Result<Fake<'_>, ()> {
            assert_eq!(alive.get(), 0, "memory never holds two models");
            let loads = loaded.borrow().len();
            assert_eq!(too_coarse.is_some(), loads == 2);
            alive.set(1);
            loaded.borrow_mut().push(dtype);
            Ok(Fake {
                dtype,
                alive: &alive,
            })
        };
        let encode = |model: &Fake<'_>| {
            let row = match model.dtype {
                Dtype::F32 => [1.0, 0.0],
                _ => in_f16,
            };
            Ok(EncodedBatch::new(vec![
                Column::new(2, row.to_vec()).unwrap(),
            ]))
        };
        let (model, too_coarse) = choose(Dtype::F16, &specs(), load, encode).unwrap();
        let cosine = too_coarse.map(|lowest| lowest.cosine);
        (model.dtype, cosine, loaded.borrow().clone())
    }

    #[test]
    fn a_format_that_is_close_enough_is_kept() {
        // The cosine is 1 - 1.8e-5.
        let (dtype, why, loaded) = chosen([1.0, 6e-3]);
        assert_eq!((dtype, why), (Dtype::F16, None));
        assert_eq!(loaded, [Dtype::F32, Dtype::F16]);
    }

    #[test]
    fn f32_takes_the_place_of_a_format_that_is_too_coarse() {
        // The cosine is 1 - 2.45e-5: close enough for the promise, and not for its margin.
        let (dtype, why, loaded) = chosen([1.0, 7e-3]);
        assert_eq!(dtype, Dtype::F32);
        let lost = 1.0 - why.unwrap();
        assert!((2.4e-5..2.5e-5).contains(&lost), "{lost:e}");
        assert_eq!(loaded, [Dtype::F32, Dtype::F16, Dtype::F32]);
        // A value beyond the format's range.
        assert_eq!(chosen([f32::INFINITY, 0.0]).1, Some(-1.0));
    }

    #[test]
    fn an_error_ends_it() {
        for failing in [Dtype::F32, Dtype::F16] {
            let load = |dtype, _| match dtype == failing {
                true => Err("no room"),
                false => Ok(dtype),
            };
            let encode =
                |_: &Dtype| Ok(EncodedBatch::new(vec![Column::new(1, vec![1.0]).unwrap()]));
            assert_eq!(choose(Dtype::F16, &specs(), load, encode), Err("no room"));
            let encode = |model: &Dtype| match *model == failing {
                true => Err("the GPU has failed"),
                false => Ok(EncodedBatch::new(vec![Column::new(1, vec![1.0]).unwrap()])),
            };
            let chosen = choose(Dtype::F16, &specs(), |dtype, _| Ok(dtype), encode);
            assert_eq!(chosen, Err("the GPU has failed"));
        }
    }

    #[test]
    fn outputs_of_one_token_are_measured_in_16_bits_and_no_others() {
        let all = OutputSet::new(OutputKind::ALL, [Layer(0), Layer::LAST]);
        let spec = |(kind, layer)| OutputSpec {
            dtype: Dtype::F16,
            ..OutputSpec::new(kind, layer, 8)
        };
        let specs: Vec<OutputSpec> = all.resolve(3).unwrap().into_iter().map(spec).collect();
        let measured = |dtype, keeps_means| Measured { dtype, keeps_means };
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let rule = measured(dtype, true);
            let measured = rule.specs(&specs);
            let kinds: Vec<OutputKind> = measured.iter().map(|spec| spec.kind).collect();
            use OutputKind::{Bos, Logits, Max, Residues};
            assert_eq!(kinds, [Bos, Bos, Max, Max, Residues, Residues, Logits]);
            assert!(measured.iter().all(|spec| spec.dtype == Dtype::F32));
            // Their columns are those of the set.
            let outputs = rule.outputs(&all).unwrap();
            assert_eq!(outputs.residues_dtype(), Dtype::F32);
            let resolved = outputs.resolve(3).unwrap();
            let of_specs = measured.iter().map(|spec| (spec.kind, spec.layer));
            assert!(of_specs.eq(resolved));
        }
        for dtype in [Dtype::F32, Dtype::Int8] {
            for keeps_means in [true, false] {
                assert_eq!(measured(dtype, keeps_means).specs(&specs), []);
                assert_eq!(measured(dtype, keeps_means).outputs(&all), None);
            }
        }
        let means = OutputSet::new([OutputKind::Mean, OutputKind::Contacts], [Layer(0)]);
        assert_eq!(measured(Dtype::Bf16, true).outputs(&means), None);
        let of_another_family = measured(Dtype::Bf16, false).outputs(&means);
        assert_eq!(
            of_another_family,
            Some(means.with_residues_dtype(Dtype::F32))
        );
    }

    #[test]
    fn the_proteins_are_the_same_everywhere() {
        let residues = AMINO_ACIDS.iter().copied().zip(4..);
        let tokens = TokenMap::new(residues, Some(0), Some(2));
        let all = proteins(&tokens, None, Dtype::F16);
        let sum = |ids: &[u32]| {
            ids.iter()
                .zip(1..)
                .map(|(&id, at)| u64::from(id) * at)
                .sum()
        };
        let digest: u64 = sum(all.token_ids());
        assert_eq!(
            (all.num_sequences(), all.total_tokens(), digest),
            (60, 10_448, 713_377_659)
        );
        // All amino acids occur.
        assert!((4..24).all(|id| all.token_ids().contains(&id)));
        let long = proteins(&tokens, None, Dtype::Bf16);
        assert_eq!(long.residue_counts().min(), Some(8));
        assert_eq!(long.num_sequences(), 44);
        // Positions end after these tokens.
        let short = |most| proteins(&tokens, Some(most), Dtype::Bf16);
        assert_eq!(short(989), long);
        assert_eq!(short(988).residue_counts().max(), Some(610));
        assert_eq!(short(9).num_sequences(), 0);
    }
}
