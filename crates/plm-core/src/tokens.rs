//! From residues to a model's token ids.

/// A model's token id for every residue, and the special tokens around a sequence.
///
/// Any model that reads one token per residue is described by such a table, so that the packer
/// needs to know nothing else about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMap {
    /// Indexed by byte; [`Self::NONE`] where the model has no token.
    token_ids: [u32; 256],
    bos: Option<u32>,
    eos: Option<u32>,
}

impl TokenMap {
    const NONE: u32 = u32::MAX;

    /// A table from `(residue, token id)` pairs, with a token to put before (`bos`) and after
    /// (`eos`) each sequence, if the model wants one. Residues are upper case.
    ///
    /// # Panics
    /// If a residue is given twice, or a token id is `u32::MAX`.
    pub fn new(
        residues: impl IntoIterator<Item = (u8, u32)>,
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> Self {
        let mut token_ids = [Self::NONE; 256];
        for (residue, token_id) in residues {
            assert_ne!(token_id, Self::NONE, "token id out of range");
            let slot = &mut token_ids[usize::from(residue)];
            assert_eq!(*slot, Self::NONE, "residue {residue:#04x} is given twice");
            *slot = token_id;
        }
        Self {
            token_ids,
            bos,
            eos,
        }
    }

    /// The token id of a residue, or `None` if the model has no token for it.
    #[inline]
    pub fn token_id(&self, residue: u8) -> Option<u32> {
        let token_id = self.token_ids[usize::from(residue)];
        (token_id != Self::NONE).then_some(token_id)
    }

    /// The token before each sequence.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token after each sequence.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// How many special tokens each sequence carries: 0, 1 or 2.
    pub fn special_tokens(&self) -> u32 {
        u32::from(self.bos.is_some()) + u32::from(self.eos.is_some())
    }
}
