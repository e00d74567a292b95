//! Sequences and residue counts that look like real inputs.

use std::ops::RangeInclusive;

use crate::SplitMix64;

/// The twenty amino acids of proteins.
const AMINO_ACIDS: &[u8; 20] = b"ACDEFGHIKLMNPQRSTVWY";

/// Random amino acids: `[residue_count]`. A seed always gives the same.
pub fn random_residues(seed: u64, residue_count: usize) -> Vec<u8> {
    let mut random = SplitMix64::new(seed);
    (0..residue_count)
        .map(|_| AMINO_ACIDS[random.below(AMINO_ACIDS.len() as u64) as usize])
        .collect()
}

/// Lognormal residue counts, clamped to `range`: `[count]`. With the right median and `sigma`, they
/// are spread like those of a proteome.
///
/// `sigma` is the standard deviation of the logarithm, about 0.6 in UniRef50.
pub fn lognormal_residue_counts(
    seed: u64,
    count: usize,
    (median, sigma): (f64, f64),
    range: RangeInclusive<u32>,
) -> Vec<u32> {
    let mut random = SplitMix64::new(seed);
    (0..count)
        .map(|_| {
            let residues = median * (sigma * random.next_normal()).exp();
            (residues.round() as u32).clamp(*range.start(), *range.end())
        })
        .collect()
}

/// Residue counts spread evenly over `range`, like those of peptides translated from short reads:
/// `[count]`.
pub fn uniform_residue_counts(seed: u64, count: usize, range: RangeInclusive<u32>) -> Vec<u32> {
    let mut random = SplitMix64::new(seed);
    let width = u64::from(range.end() - range.start()) + 1;
    (0..count)
        .map(|_| range.start() + random.below(width) as u32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lognormal_counts_have_the_median_asked_for() {
        let mut counts = lognormal_residue_counts(1, 10_001, (290.0, 0.6), 30..=1_022);
        counts.sort_unstable();
        assert!((280..=300).contains(&counts[5_000]), "{}", counts[5_000]);
        assert!(counts[0] >= 30 && counts[10_000] <= 1_022);
    }

    #[test]
    fn uniform_counts_reach_both_ends() {
        let counts = uniform_residue_counts(2, 10_000, 49..=166);
        assert_eq!(counts.iter().min(), Some(&49));
        assert_eq!(counts.iter().max(), Some(&166));
    }
}
