//! Which devices a run uses, and what a person types to choose them.

use std::fmt;
use std::str::FromStr;

use plm_core::WorldSize;

use crate::Error;

/// The devices of a run: one rank each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    /// Every GPU of the machine that this build can use, else the CPU.
    #[default]
    Auto,
    /// The CPU, its cores shared evenly by this many ranks.
    Cpu {
        /// How many ranks.
        lanes: WorldSize,
    },
    /// These CUDA devices, by ordinal.
    Cuda(Vec<u32>),
}

/// Words that name no [`Devices`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no devices: use auto, cpu, cpu:4 (four ranks on the CPU) or cuda:0,1")]
pub struct ParseDevicesError(String);

impl Devices {
    /// The CPU as a single rank that uses every core.
    pub const CPU: Self = Self::Cpu {
        lanes: WorldSize::ONE,
    };

    /// How many ranks these devices are on this machine, with this build.
    ///
    /// # Errors
    /// [`Error::CudaNotBuilt`] if CUDA devices are asked for: this version computes on the CPU.
    pub fn world_size(&self) -> Result<WorldSize, Error> {
        match self {
            Self::Auto => Ok(WorldSize::ONE),
            Self::Cpu { lanes } => Ok(*lanes),
            Self::Cuda(_) => Err(Error::CudaNotBuilt {
                devices: self.clone(),
            }),
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
    fn words_that_name_no_devices_are_refused() {
        for words in [
            "", "gpu", "cpu:", "cpu:0", "cpu:-1", "cuda", "cuda:", "cuda:0,", "cuda:1,1", "CPU",
        ] {
            assert!(words.parse::<Devices>().is_err(), "{words:?} was taken");
        }
    }
}
