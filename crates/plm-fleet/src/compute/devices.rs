//! The devices of a run, and the words by which a person chooses them.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use plm_coordinator::PlanConfig;
use plm_core::{Dtype, WorldSize};
use plm_kernels::{GpuError, count_gpus, describe_gpu};

use super::families;
use crate::Error;

/// The devices of a run. Each device is one rank.
///
/// ```
/// use plm_fleet::Devices;
///
/// let devices: Devices = "cpu:2".parse()?;
/// assert_eq!(devices.world_size()?.get(), 2);
/// assert_eq!(devices.to_string(), "cpu:2");
/// assert!("gpu".parse::<Devices>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    /// Every GPU of the machine that this build can use, or the CPU if there is none.
    #[default]
    Auto,
    /// The CPU. Its ranks share its cores evenly.
    Cpu {
        /// The number of ranks.
        lanes: WorldSize,
    },
    /// These CUDA devices, by ordinal.
    Cuda(Vec<u32>),
}

/// The error for words that name no [`Devices`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no devices: use auto, cpu, cpu:4 (four ranks on the CPU) or cuda:0,1")]
pub struct ParseDevicesError(String);

impl Devices {
    /// The CPU as a single rank that uses every core.
    pub const CPU: Self = Self::Cpu {
        lanes: WorldSize::ONE,
    };
    /// The batch size on GPUs, in tokens, unless another is set.
    pub const GPU_BATCH_TOKENS: u32 = families::GPU_BATCH_TOKENS;

    /// Turns [`Auto`](Self::Auto) into the devices that this machine has and this build can use.
    ///
    /// # Errors
    /// [`Error::NotOncePerRank`] if a list of GPUs is empty or names one twice, [`Error::Devices`]
    /// if one of them can't be used.
    pub fn resolve(&self) -> Result<Self, Error> {
        match self {
            Self::Auto => Ok(Self::automatic()),
            Self::Cpu { .. } => Ok(self.clone()),
            Self::Cuda(ordinals) => self.check(ordinals).map(|()| self.clone()),
        }
    }

    fn automatic() -> Self {
        let usable = |ordinal: &u32| match describe_gpu(*ordinal) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!("{error}; it is left out");
                false
            }
        };
        let usable: Vec<u32> = match count_gpus() {
            Ok(count) => (0..count).filter(usable).collect(),
            Err(GpuError::NotBuilt) => Vec::new(),
            Err(error) => {
                tracing::warn!("{error}; computing on the CPU");
                Vec::new()
            }
        };
        if usable.is_empty() {
            Self::CPU
        } else {
            Self::Cuda(usable)
        }
    }

    fn check(&self, ordinals: &[u32]) -> Result<(), Error> {
        let distinct: HashSet<&u32> = ordinals.iter().collect();
        if ordinals.is_empty() || distinct.len() < ordinals.len() {
            return Err(Error::NotOncePerRank {
                devices: self.clone(),
            });
        }
        ordinals
            .iter()
            .try_for_each(|&ordinal| describe_gpu(ordinal).map(drop))
            .map_err(|source| Error::Devices {
                devices: self.clone(),
                source: Box::new(source),
            })
    }

    /// How many ranks these devices have on this machine, with this build.
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve).
    pub fn world_size(&self) -> Result<WorldSize, Error> {
        match self.resolve()? {
            Self::Cuda(ordinals) => {
                Ok(WorldSize::new(ordinals.len() as u32).expect("resolved GPUs are at least one"))
            }
            Self::Cpu { lanes } => Ok(lanes),
            Self::Auto => unreachable!("it was resolved"),
        }
    }

    /// The batch size of runs on these devices, in tokens, unless another is set.
    ///
    /// It is [`GPU_BATCH_TOKENS`](Self::GPU_BATCH_TOKENS) on GPUs, and
    /// [`PlanConfig::DEFAULT_MAX_BATCH_TOKENS`] on the CPU.
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve).
    pub fn max_batch_tokens(&self) -> Result<u32, Error> {
        Ok(match self.resolve()? {
            Self::Cuda(_) => Self::GPU_BATCH_TOKENS,
            _ => PlanConfig::DEFAULT_MAX_BATCH_TOKENS,
        })
    }

    /// The number format in which models compute on these devices, unless another is set.
    ///
    /// It is f16 on GPUs, whose tensor cores support it; it is eight times finer than bf16. It is
    /// f32 on the CPU, where the other formats are no faster.
    pub(super) fn dtype(&self) -> Dtype {
        match self {
            Self::Cuda(_) => Dtype::F16,
            _ => Dtype::F32,
        }
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu {
                lanes: WorldSize::ONE,
            } => f.write_str("cpu"),
            Self::Cpu { lanes } => write!(f, "cpu:{lanes}"),
            Self::Cuda(ordinals) => {
                let ordinals: Vec<String> = ordinals.iter().map(u32::to_string).collect();
                write!(f, "cuda:{}", ordinals.join(","))
            }
        }
    }
}

impl FromStr for Devices {
    type Err = ParseDevicesError;

    fn from_str(words: &str) -> Result<Self, Self::Err> {
        let unknown = || ParseDevicesError(words.to_owned());
        match words.split_once(':') {
            None if words == "auto" => Ok(Self::Auto),
            None if words == "cpu" => Ok(Self::CPU),
            Some(("cpu", lanes)) => {
                let lanes = lanes.parse().map_err(|_| unknown())?;
                WorldSize::new(lanes)
                    .map(|lanes| Self::Cpu { lanes })
                    .map_err(|_| unknown())
            }
            Some(("cuda", ordinals)) => {
                let ordinals: Vec<u32> = ordinals
                    .split(',')
                    .map(|ordinal| ordinal.parse().map_err(|_| unknown()))
                    .collect::<Result<_, _>>()?;
                let mut distinct = ordinals.clone();
                distinct.sort_unstable();
                distinct.dedup();
                if distinct.len() < ordinals.len() {
                    return Err(unknown());
                }
                Ok(Self::Cuda(ordinals))
            }
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_what_is_read() {
        for words in ["auto", "cpu", "cpu:4", "cuda:0", "cuda:3,1"] {
            assert_eq!(words.parse::<Devices>().unwrap().to_string(), words);
        }
        assert_eq!("cpu:1".parse(), Ok(Devices::CPU));
    }

    #[test]
    fn a_gpu_is_one_ranks() {
        for ordinals in [vec![], vec![0, 0], vec![1, 0, 1]] {
            let refusal = Devices::Cuda(ordinals).resolve();
            assert!(matches!(refusal, Err(Error::NotOncePerRank { .. })));
        }
    }

    #[test]
    fn automatic_devices_have_the_batch_size_of_what_they_are() {
        let there = Devices::Auto.resolve().unwrap();
        assert_eq!(
            Devices::Auto.max_batch_tokens().unwrap(),
            there.max_batch_tokens().unwrap()
        );
        assert_eq!(Devices::CPU.max_batch_tokens().unwrap(), 16_384);
        assert!(Devices::Cuda(vec![1_000]).max_batch_tokens().is_err());
    }

    #[test]
    fn automatic_devices_are_there() {
        let devices = Devices::Auto.resolve().unwrap();
        assert_eq!(devices.resolve().unwrap(), devices);
        assert_ne!(devices, Devices::Auto);
    }

    #[test]
    fn words_that_name_no_devices_are_refused() {
        for words in [
            "", "gpu", "cpu:", "cpu:0", "cpu:-1", "cuda", "cuda:", "cuda:0,", "cuda:1,1", "CPU",
        ] {
            assert!(words.parse::<Devices>().is_err(), "{words:?} was taken");
        }
    }
}
