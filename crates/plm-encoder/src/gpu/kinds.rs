//! The GPUs of a run are of one kind, or its bits would be of several.

use plm_core::Rank;
use plm_kernels::{GpuDescription, GpuKind, describe_gpu};

use crate::Error;

/// What the GPUs are that CUDA numbers `ordinals`.
pub(crate) fn describe(ordinals: &[u32]) -> Result<Vec<GpuDescription>, Error> {
    let described = ordinals.iter().map(|&ordinal| describe_gpu(ordinal));
    Ok(described.collect::<Result<_, _>>()?)
}

/// The kind that all of these are of.
pub(crate) fn one_kind(gpus: &[GpuDescription]) -> Result<GpuKind, Error> {
    let first = gpus.first().ok_or(Error::NoGpuForRank { rank: Rank(0) })?;
    if gpus.iter().any(|gpu| gpu.kind != first.kind) {
        return Err(Error::MixedGpus {
            gpus: gpus.to_vec(),
        });
    }
    Ok(first.kind)
}

#[cfg(test)]
mod tests {
    use plm_kernels::Generation;

    use super::*;

    type Kind = ((i32, i32), u32, &'static Generation);

    fn gpu(
        ordinal: u32,
        name: &str,
        (capability, multiprocessors, generation): Kind,
    ) -> GpuDescription {
        GpuDescription {
            ordinal,
            name: name.to_owned(),
            uuid: format!("GPU-{ordinal}"),
            kind: GpuKind {
                capability,
                multiprocessors,
                generation,
            },
            total_bytes: 80 << 30,
        }
    }

    const A100: Kind = ((8, 0), 108, &Generation::PTX);
    const A30: Kind = ((8, 0), 56, &Generation::PTX);
    const H100: Kind = ((9, 0), 132, &Generation::HOPPER);
    const H100_BY_PTX: Kind = ((9, 0), 132, &Generation::PTX);

    #[test]
    fn gpus_of_one_kind_have_its_bits_whatever_they_are_called() {
        let kind = one_kind(&[gpu(0, "NVIDIA H100", H100), gpu(3, "NVIDIA H200", H100)]).unwrap();
        assert_eq!(kind.to_string(), "9.0, 132 multiprocessors, hopper kernels");
        let kind = one_kind(&[gpu(1, "NVIDIA A100", A100)]).unwrap();
        assert_eq!(kind.to_string(), "8.0, 108 multiprocessors, ptx kernels");
    }

    #[test]
    fn gpus_of_several_kinds_are_refused_by_name() {
        for other in [A30, H100, H100_BY_PTX] {
            let gpus = [
                gpu(0, "NVIDIA A100", A100),
                gpu(1, "another", other),
                gpu(2, "NVIDIA A100", A100),
            ];
            let error = one_kind(&gpus).unwrap_err();
            assert!(matches!(&error, Error::MixedGpus { gpus: named } if *named == gpus));
            let message = error.to_string();
            let a100s =
                "cuda:0 (NVIDIA A100) and cuda:2 (NVIDIA A100) are 8.0, 108 multiprocessors";
            assert!(message.contains(a100s), "{message}");
            assert!(message.contains("cuda:1 (another) is "), "{message}");
            assert!(message.contains("choose GPUs of one kind"), "{message}");
        }
        let by_build = [gpu(0, "one", H100), gpu(1, "two", H100_BY_PTX)];
        assert!(matches!(one_kind(&by_build), Err(Error::MixedGpus { .. })));
    }

    #[test]
    fn a_run_without_a_gpu_is_refused() {
        assert!(matches!(one_kind(&[]), Err(Error::NoGpuForRank { .. })));
    }
}
