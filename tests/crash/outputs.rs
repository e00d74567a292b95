//! The outputs of the subjects. Most tests are done with one mean, whose rows are in segments, and
//! with rows of residues, which are in the draft of the result. Some are done with several files
//! too, each with a draft.

use std::cell::Cell;

use plm_fleet::{Layer, OutputKind, OutputSet, SegmentConfigBuilder};

/// What the subjects of a test compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outputs {
    /// The mean of the last layer.
    Mean,
    /// The rows of residues of the last layer, its mean, and the logits.
    Residues,
    /// The same, in a result of several files.
    Files,
}

/// The size of a file of the result, if it is several.
const MAX_FILE_BYTES: u64 = 64 << 10;

thread_local! {
    static OF_THIS_TEST: Cell<Outputs> = const { Cell::new(Outputs::Mean) };
}

impl Outputs {
    /// Runs a test with these outputs.
    pub(crate) fn run(self, test: impl FnOnce()) {
        OF_THIS_TEST.set(self);
        test();
    }

    /// The outputs of the test on this thread.
    pub(crate) fn of_this_test() -> Self {
        OF_THIS_TEST.get()
    }

    pub(crate) fn number(self) -> u64 {
        self as u64
    }

    pub(crate) fn of_number(number: u64) -> Self {
        match number {
            0 => Self::Mean,
            1 => Self::Residues,
            _ => Self::Files,
        }
    }

    /// The settings for these outputs.
    pub(crate) fn set(self) -> Option<OutputSet> {
        let kinds = [OutputKind::Residues, OutputKind::Mean, OutputKind::Logits];
        (self != Self::Mean).then(|| OutputSet::new(kinds, [Layer::LAST]))
    }

    /// The size of a file of the result, if it is several.
    pub(crate) fn max_file_bytes(self) -> Option<u64> {
        (self == Self::Files).then_some(MAX_FILE_BYTES)
    }

    /// The same store, with files of this size.
    pub(crate) fn of_size(self, store: SegmentConfigBuilder) -> SegmentConfigBuilder {
        match self.max_file_bytes() {
            Some(max_file_bytes) => store.max_file_bytes(max_file_bytes),
            None => store,
        }
    }
}
