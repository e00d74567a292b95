//! The outputs of the subjects. Most tests are done twice: with one mean, whose rows are in
//! segments, and with rows of residues, which are in the draft of the result.

use std::cell::Cell;

use plm_fleet::{Layer, OutputKind, OutputSet};

/// What the subjects of a test compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outputs {
    /// The mean of the last layer.
    Mean,
    /// The rows of residues of the last layer, its mean, and the logits.
    Residues,
}

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
        u64::from(self == Self::Residues)
    }

    pub(crate) fn of_number(number: u64) -> Self {
        match number {
            0 => Self::Mean,
            _ => Self::Residues,
        }
    }

    /// The settings for these outputs.
    pub(crate) fn set(self) -> Option<OutputSet> {
        let kinds = [OutputKind::Residues, OutputKind::Mean, OutputKind::Logits];
        (self == Self::Residues).then(|| OutputSet::new(kinds, [Layer::LAST]))
    }
}
