//! Digests, by which content is known.
//!
//! The type knows the 32 bytes and their text, which is what files hold. It does not compute
//! digests: so this crate needs no hash function.

use std::fmt;
use std::str::FromStr;

/// The BLAKE3 digest of some content, shown as `blake3:` and 64 hex digits in lower case.
///
/// A digest has exactly one text: hex digits in upper case are refused. The crate that computes a
/// digest says what it digests, and in which order.
///
/// The feature `serde` serializes a digest as its text.
///
/// ```
/// use plm_core::Digest;
///
/// let text = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
/// let digest: Digest = text.parse()?;
/// assert_eq!(digest.to_string(), text);
/// assert_eq!(digest.as_bytes()[..2], [0xaf, 0x13]);
/// # Ok::<(), plm_core::ParseDigestError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; Digest::BYTES]);

/// A text that is no [`Digest`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no digest: it must be blake3: and 64 hex digits in lower case")]
pub struct ParseDigestError(String);

impl Digest {
    /// The number of bytes of a digest.
    pub const BYTES: usize = 32;
    /// The number of bytes of a digest's text, which is ASCII.
    pub const TEXT_BYTES: usize = Self::PREFIX.len() + 2 * Self::BYTES;

    /// What the text starts with: the hash function.
    const PREFIX: &str = "blake3:";

    /// The digest whose bytes BLAKE3 has computed.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The digest's 64 hex digits in lower case, as `b3sum` prints them.
    pub fn hex(&self) -> String {
        self.to_string().split_off(Self::PREFIX.len())
    }

    /// The digest with these 64 hex digits in lower case, without the prefix; `None` if `hex` is
    /// anything else.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let digits = hex.as_bytes();
        if digits.len() != 2 * Self::BYTES {
            return None;
        }
        let mut bytes = [0; Self::BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Some(Self(bytes))
    }
}

/// The value of a hex digit.
fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix(Self::PREFIX)
            .and_then(Self::from_hex)
            .ok_or_else(|| ParseDigestError(text.to_owned()))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vector of the BLAKE3 reference implementation for the input bytes 0, 1, 2.
    const OF_0_1_2: &str =
        "blake3:e1be4d7a8ab5560aa4199eea339849ba8e293d55ca0a81006726d184519e647f";

    #[test]
    fn what_is_printed_is_what_is_read() {
        let digest: Digest = OF_0_1_2.parse().unwrap();
        assert_eq!(digest.to_string(), OF_0_1_2);
        assert_eq!(OF_0_1_2.len(), Digest::TEXT_BYTES);
        assert_eq!(digest.hex(), OF_0_1_2[7..]);
        assert_eq!(Digest::from_hex(&digest.hex()), Some(digest));
        assert_eq!(Digest::from_bytes(*digest.as_bytes()), digest);
        assert_eq!(digest.as_bytes()[31], 0x7f);
    }

    #[test]
    fn text_that_is_no_digest_is_refused() {
        let long = format!("{OF_0_1_2}0");
        let with_a_sign = OF_0_1_2.replacen("e1", "+1", 1);
        let in_upper_case = OF_0_1_2.replacen("e1", "E1", 1);
        for text in [
            "",
            "blake3:",
            "blake3:00",
            &OF_0_1_2[7..],
            &OF_0_1_2[..70],
            &long,
            &with_a_sign,
            &in_upper_case,
            "md5:00",
        ] {
            let refused = text.parse::<Digest>().unwrap_err();
            assert!(refused.to_string().starts_with(&format!("{text:?}")));
        }
        assert_eq!(Digest::from_hex(&"é".repeat(32)), None);
    }
}
