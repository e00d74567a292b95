//! ESM C's alphabet.

use plm_core::TokenMap;

/// The 33 tokens by id, in the order of `esm`'s `EsmSequenceTokenizer`. All released weights share
/// it. It is ESM-2's, but for the chain break.
pub const VOCABULARY: [&str; 33] = [
    "<cls>", "<pad>", "<eos>", "<unk>", "L", "A", "G", "V", "S", "E", "R", "T", "I", "D", "P", "K",
    "Q", "N", "F", "Y", "M", "H", "W", "C", "X", "B", "U", "Z", "O", ".", "-", "|", "<mask>",
];

/// The rows of the token embedding, and the width of logits: 33 tokens, and 31 rows that no token
/// has.
pub(crate) const EMBEDDED: usize = 64;

pub(crate) const CLS: u32 = 0;
pub(crate) const PAD: u32 = 1;
pub(crate) const EOS: u32 = 2;
pub(crate) const MASK: u32 = 32;

/// ESM C's token for each residue, with `<cls>` before and `<eos>` after each sequence.
///
/// ```
/// let tokens = plm_esmc::token_map();
/// assert_eq!(tokens.token_id(b'L'), Some(4));
/// assert_eq!((tokens.bos(), tokens.eos()), (Some(0), Some(2)));
/// ```
pub fn token_map() -> TokenMap {
    let residues = VOCABULARY.iter().zip(0..).filter_map(|(token, id)| {
        let &[letter] = token.as_bytes() else {
            return None;
        };
        Some((letter, id))
    });
    TokenMap::new(residues, Some(CLS), Some(EOS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_have_the_names_of_their_ids() {
        let names = [
            (CLS, "<cls>"),
            (PAD, "<pad>"),
            (EOS, "<eos>"),
            (MASK, "<mask>"),
        ];
        for (id, name) in names {
            assert_eq!(VOCABULARY[id as usize], name);
        }
    }

    #[test]
    fn every_letter_that_an_input_may_hold_has_a_token() {
        let tokens = token_map();
        for byte in 0..=u8::MAX {
            if let plm_core::Letter::Residue(residue) | plm_core::Letter::Substituted(residue) =
                plm_core::classify_letter(byte)
            {
                assert!(tokens.token_id(residue).is_some(), "{}", residue as char);
            }
        }
    }
}
