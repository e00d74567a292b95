//! Tables from residues to a model's token ids.

/// A model's token id for every residue, and the special tokens around a sequence.
///
/// The table describes any model that reads one token per residue. A packer needs to know nothing
/// else about the model.
///
/// ```
/// use plm_core::TokenMap;
///
/// let tokens = TokenMap::new([(b'A', 5), (b'G', 6)], Some(0), Some(2));
/// assert_eq!(tokens.token_id(b'G'), Some(6));
/// assert_eq!(tokens.token_id(b'?'), None);
/// assert_eq!(tokens.special_tokens(), 2);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMap {
    /// Token ids by the residue's byte; [`Self::NONE`] where the model has no token.
    token_ids: [u32; 256],
    bos: Option<u32>,
    eos: Option<u32>,
}

impl TokenMap {
    const NONE: u32 = u32::MAX;

    /// A table of `(residue, token id)` pairs, with residues in upper case. `bos` and `eos` are the
    /// tokens before and after each sequence, if the model has them.
    ///
    /// # Panics
    /// If a residue occurs twice, or its token id is `u32::MAX`.
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

    /// The token before each sequence, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token after each sequence, if the model has one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The number of special tokens of each sequence: 0, 1 or 2.
    pub fn special_tokens(&self) -> u32 {
        u32::from(self.bos.is_some()) + u32::from(self.eos.is_some())
    }
}
