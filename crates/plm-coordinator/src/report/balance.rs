//! How evenly tokens are spread over ranks.

use serde::{Deserialize, Serialize};

/// The tokens of every rank, and how far they are from even.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    /// `[world]`
    tokens_per_rank: Vec<u64>,
    max_deviation_percent: f64,
}

impl Balance {
    /// The balance of these numbers of tokens: `[world]`.
    pub(crate) fn new(tokens_per_rank: Vec<u64>) -> Self {
        let total: u64 = tokens_per_rank.iter().sum();
        let mean = total as f64 / tokens_per_rank.len().max(1) as f64;
        let max_deviation = tokens_per_rank
            .iter()
            .map(|&tokens| (tokens as f64 - mean).abs())
            .fold(0.0, f64::max);
        Self {
            tokens_per_rank,
            max_deviation_percent: if total == 0 {
                0.0
            } else {
                100.0 * max_deviation / mean
            },
        }
    }

    /// The number of tokens of each rank: `[world]`.
    pub fn tokens_per_rank(&self) -> &[u64] {
        &self.tokens_per_rank
    }

    /// The largest distance of a rank's tokens from the mean, in percent of the mean. 0 if there
    /// are no tokens.
    pub fn max_deviation_percent(&self) -> f64 {
        self.max_deviation_percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_the_rank_furthest_from_the_mean() {
        assert_eq!(
            Balance::new(vec![90, 100, 125, 85]).max_deviation_percent(),
            25.0
        );
        assert_eq!(Balance::new(vec![7, 7]).max_deviation_percent(), 0.0);
    }

    #[test]
    fn no_tokens_are_even() {
        assert_eq!(Balance::new(vec![0, 0]).max_deviation_percent(), 0.0);
        assert_eq!(Balance::new(vec![]).max_deviation_percent(), 0.0);
    }
}
