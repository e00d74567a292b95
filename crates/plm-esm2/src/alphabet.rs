//! ESM-2's alphabet.

use plm_core::TokenMap;

/// The 33 tokens by id, in the order of fair-esm's `Alphabet`. All released weights share it.
pub const VOCABULARY: [&str; 33] = [
    "<cls>", "<pad>", "<eos>", "<unk>", "L", "A", "G", "V", "S", "E", "R", "T", "I", "D", "P", "K",
    "Q", "N", "F", "Y", "M", "H", "W", "C", "X", "B", "U", "Z", "O", ".", "-", "<null_1>",
    "<mask>",
];

pub(crate) const CLS: u32 = 0;
pub(crate) const PAD: u32 = 1;
pub(crate) const EOS: u32 = 2;
pub(crate) const MASK: u32 = 32;

/// ESM-2's token for each residue, with `<cls>` before and `<eos>` after each sequence.
///
/// ```
/// let tokens = plm_esm2::token_map();
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
