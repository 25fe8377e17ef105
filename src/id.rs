//! Names and numbers that cross module boundaries: snapshot ids, keys, owners, digests.
//!
//! Each is a type of its own, so that a DiffID cannot be passed for a ChainID, and no unchecked string becomes a file
//! name.
//!
//! # References
//! OCI image specification: `descriptor.md` (digests), `config.md` (DiffID, ChainID).

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// Maximum length of a key or name, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// Largest id, so that the database can store it and all ids that follow it in practice.
const ID_MAX: u64 = 1 << 62;

/// Number of a snapshot: the name of its directory. Ids only grow and are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Id {
    type Err = Error;

    /// Accepts exactly the output of `Display`: no sign, no leading zero. Numbers above any id that a store gives are
    /// refused, so that a foreign directory cannot use up the remaining ids.
    fn from_str(text: &str) -> Result<Self> {
        match text.parse::<u64>() {
            Ok(number) if number.to_string() == text && number <= ID_MAX => Ok(Self(number)),
            _ => Err(Error::invalid(format!("{text:?} is no snapshot id"))),
        }
    }
}

/// Checks a key or name: 1 to [`KEY_BYTES_MAX`] bytes, no NUL, no newline.
///
/// # Errors
/// `InvalidArgument` that says which rule was broken.
pub fn check_key(key: &str) -> Result<()> {
    let broken = if key.is_empty() {
        "is empty"
    } else if key.len() > KEY_BYTES_MAX {
        "is longer than 1024 bytes"
    } else if key.contains('\0') {
        "contains a NUL byte"
    } else if key.contains('\n') {
        "contains a newline"
    } else {
        return Ok(());
    };
    let shown: String = key.chars().take(64).collect();
    Err(Error::invalid(format!("the key {shown:?} {broken}")))
}

/// Returns a key that no other call returns, in this process or another. It begins with `purpose`, which tells users
/// who find the key in a list what it was made for.
pub fn unique_key(purpose: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    format!("{purpose}-{nanos}-{process}-{count}")
}

/// A sha256 digest, printed and parsed as `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Returns the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Returns the digest of a finished hasher.
    pub fn finish(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// Returns the 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the 64 hexadecimal digits: a safe file name.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("{text:?} is no digest of the form sha256:<64 hexadecimal digits>"));
        let hex = text.strip_prefix("sha256:").ok_or_else(wrong)?;
        if hex.len() != 64 || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
        Ok(Self(bytes))
    }
}

fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit - b'a' + 10,
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Digest of a layer's uncompressed tar stream.
pub type DiffId = Digest;

/// Digest that identifies a stack of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// Returns the ChainID of a stack whose only layer is `layer`.
    pub fn base(layer: DiffId) -> Self {
        Self(layer)
    }

    /// Returns the ChainID of this stack with `layer` on top.
    ///
    /// # References
    /// OCI image specification, `config.md`, "Layer ChainID".
    #[must_use]
    pub fn push(self, layer: DiffId) -> Self {
        Self(Digest::of(format!("{} {layer}", self.0).as_bytes()))
    }

    /// Returns the ChainIDs of all prefixes of `layers`, the shortest first.
    pub fn all(layers: &[DiffId]) -> Vec<Self> {
        let mut chain: Vec<Self> = Vec::with_capacity(layers.len());
        for layer in layers {
            chain.push(chain.last().map_or(Self::base(*layer), |below| below.push(*layer)));
        }
        chain
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for good in ["a", "k8s.io/187/sha256:abc", "extract-1-x sha256:abc", &"k".repeat(KEY_BYTES_MAX)] {
            check_key(good).expect(good);
        }
        for bad in ["", "a\0", "a\nb", &"k".repeat(KEY_BYTES_MAX + 1)] {
            assert_eq!(check_key(bad).unwrap_err().kind(), crate::ErrorKind::InvalidArgument);
        }
    }

    #[test]
    fn ids_have_one_spelling() {
        assert_eq!("17".parse::<Id>().expect("17"), Id(17));
        for bad in ["", "+1", "01", "-1", "1 ", "18446744073709551616"] {
            assert!(bad.parse::<Id>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn digests_have_one_spelling() {
        let empty = Digest::of(b"");
        assert_eq!(empty.to_string(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(empty.to_string().parse::<Digest>().expect("round trip"), empty);
        for bad in ["", "sha256:", "sha256:../../etc", "md5:00", &empty.to_string().to_uppercase()] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
    }

    /// Checks the specification's formula: sha256 of the two strings separated by one space.
    #[test]
    fn chain_ids() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = ChainId::all(&[a, b]);
        assert_eq!(chain[0].0, a);
        assert_eq!(chain[1].0, Digest::of(format!("{a} {b}").as_bytes()));
    }
}
