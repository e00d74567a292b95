//! Which generations of GPUs there are kernels for, and which kernels: one row of a table each.
//!
//! `build.rs` compiles what the table says, and the rest of the crate asks it. So a new generation
//! is a row here and, where it has kernels of its own, a `.cu` of its name in the folders of their
//! ops (a folder's `generic.cu` is for all generations, and its `hopper.cu` for the one that is
//! called `hopper`).
//!
//! This module must not know how kernels are loaded or launched; nothing here needs CUDA.

/// GPUs that run the same kernels of a build.
#[derive(Debug, PartialEq, Eq)]
pub struct Generation {
    /// The name in fingerprints and of the `.cu` files that are for this generation alone.
    pub name: &'static str,
    /// The lowest compute capability, major and minor.
    pub first: (i32, i32),
    /// The highest compute capability.
    pub last: (i32, i32),
    /// The cards that people know, for messages.
    pub cards: &'static str,
    /// What the kernels are compiled to.
    pub target: Target,
    /// The hidden size from which a layer in 16 bits is made of `StreamLinear`s, where there are
    /// any.
    pub stream_from: Option<usize>,
    /// Whether there are products of 8-bit integers (`Int8Linear`).
    pub has_int8: bool,
}

/// What nvcc makes of a kernel.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// Machine code for this architecture, as in `90a`: it runs on this generation and no other.
    MachineCode(&'static str),
    /// PTX for this architecture, as in `80`, which the driver compiles for newer ones.
    Ptx(&'static str),
}

/// The multiprocessors of the largest GPUs whose tiles batches are measured by: H100 and H200.
const MULTIPROCESSORS: u32 = 132;
/// The rows of a tile of a product there.
const TILE_ROWS: u32 = 128;

impl Generation {
    /// All of them. A GPU is of the first that takes its compute capability.
    pub const ALL: [&'static Self; 2] = [&Self::HOPPER, &Self::PTX];

    /// H100 and H200.
    pub const HOPPER: Self = Self {
        name: "hopper",
        first: (9, 0),
        last: (9, 0),
        cards: "H100 and H200",
        target: Target::MachineCode("90a"),
        // In fewer columns the kernel would multiply zeros to have the 12 steps of 64 that it
        // takes.
        stream_from: Some(12 * 64),
        has_int8: true,
    };

    /// Whatever can run the PTX.
    pub const PTX: Self = Self {
        name: "ptx",
        first: (8, 0),
        last: (i32::MAX, i32::MAX),
        cards: "A100",
        target: Target::Ptx("80"),
        stream_from: None,
        has_int8: false,
    };

    /// The tokens of a batch that keep a GPU of any generation busy: two tiles of rows for each of
    /// the multiprocessors of an H100. With batches of 16,384, up to 4% of its time is spent on
    /// tiles that leave some of them idle, and between kernels.
    ///
    /// It is one number for all, so that parts of a run on different cards share one plan.
    pub const FULL_BATCH_TOKENS: u32 = 2 * MULTIPROCESSORS * TILE_ROWS;

    /// The generation of a compute capability: the first of all, or of those without machine code.
    pub fn of(capability: (i32, i32), may_be_machine_code: bool) -> Option<&'static Self> {
        Self::ALL.into_iter().find(|generation| {
            let is_machine_code = matches!(generation.target, Target::MachineCode(_));
            (generation.first..=generation.last).contains(&capability)
                && (may_be_machine_code || !is_machine_code)
        })
    }

    /// The oldest of all, by compute capability.
    pub fn oldest() -> &'static Self {
        Self::ALL
            .into_iter()
            .min_by_key(|generation| generation.first)
            .expect("there is a generation")
    }

    /// Those with kernels for 8-bit integers, for messages: `9.0 (H100 and H200)`.
    pub fn with_int8() -> String {
        let with_int8 = Self::ALL
            .into_iter()
            .filter(|generation| generation.has_int8);
        let named = with_int8
            .map(|generation| format!("{} ({})", readable(generation.first), generation.cards));
        named.collect::<Vec<_>>().join(", ")
    }
}

/// A compute capability as people write it: `9.0`.
pub(crate) fn readable((major, minor): (i32, i32)) -> String {
    format!("{major}.{minor}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities() -> impl Iterator<Item = (i32, i32)> {
        let all = (7..=12).flat_map(|major| (0..10).map(move |minor| (major, minor)));
        all.filter(|capability| ((7, 5)..=(12, 1)).contains(capability))
    }

    #[test]
    fn every_capability_gets_its_kernels() {
        for capability in capabilities() {
            let expected = match capability {
                (9, 0) => Some(&Generation::HOPPER),
                (7, _) => None,
                _ => Some(&Generation::PTX),
            };
            assert_eq!(Generation::of(capability, true), expected, "{capability:?}");
        }
    }

    #[test]
    fn without_machine_code_all_take_the_ptx() {
        for capability in capabilities() {
            let expected = (capability >= (8, 0)).then_some(&Generation::PTX);
            assert_eq!(
                Generation::of(capability, false),
                expected,
                "{capability:?}"
            );
        }
    }

    #[test]
    fn what_only_a_hopper_has_is_there_on_a_hopper_only() {
        for generation in Generation::ALL {
            let is_hopper = generation.name == "hopper";
            assert_eq!(generation.stream_from, is_hopper.then_some(768));
            assert_eq!(generation.has_int8, is_hopper);
        }
        assert_eq!(Generation::oldest().first, (8, 0));
        assert_eq!(Generation::with_int8(), "9.0 (H100 and H200)");
    }

    #[test]
    fn a_full_batch_is_what_plans_were_made_with() {
        assert_eq!(Generation::FULL_BATCH_TOKENS, 33_792);
    }
}
