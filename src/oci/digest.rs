//! Digests of blobs, by the algorithms that the image specification registers.
//!
//! # References
//! OCI image specification, `descriptor.md`, "Registered algorithms".

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::{Digest as _, Sha512};

use crate::error::{Error, Result};
use crate::id::Digest;

/// Length of a sha512 digest in bytes.
const SHA512_BYTES: usize = 64;

/// The digest that a descriptor gives for its blob.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlobDigest {
    /// `sha256:`, which nearly every image has.
    Sha256(Digest),
    /// `sha512:`.
    Sha512([u8; SHA512_BYTES]),
}

impl BlobDigest {
    /// Returns the path of the blob in an OCI layout.
    pub fn path(self) -> String {
        format!("blobs/{}", self.to_string().replace(':', "/"))
    }

    /// Returns the digest, if it is by the algorithm of the store's own digests.
    pub fn sha256(self) -> Option<Digest> {
        match self {
            Self::Sha256(digest) => Some(digest),
            Self::Sha512(_) => None,
        }
    }

    /// Returns the digest of `bytes` by the same algorithm.
    pub fn like(self, bytes: &[u8]) -> Self {
        match self {
            Self::Sha256(_) => Self::Sha256(Digest::of(bytes)),
            Self::Sha512(_) => Self::Sha512(Sha512::digest(bytes).into()),
        }
    }
}

impl From<Digest> for BlobDigest {
    fn from(digest: Digest) -> Self {
        Self::Sha256(digest)
    }
}

impl fmt::Display for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => digest.fmt(f),
            Self::Sha512(bytes) => {
                f.write_str("sha512:")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl fmt::Debug for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BlobDigest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(hex) = text.strip_prefix("sha512:") else { return text.parse().map(Self::Sha256) };
        let mut bytes = [0; SHA512_BYTES];
        let is_lower_hex = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if hex.len() != 2 * SHA512_BYTES || !is_lower_hex {
            let wanted = "sha512:<128 hexadecimal digits>";
            return Err(Error::invalid(format!("{text:?} is no digest of the form {wanted}")));
        }
        for (byte, at) in bytes.iter_mut().zip((0..hex.len()).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).unwrap_or_default();
        }
        Ok(Self::Sha512(bytes))
    }
}

/// A reader that fails at the end of its data unless the data has the expected sha512 digest. The pipeline of an import
/// computes sha256 only.
#[derive(Debug)]
pub struct Sha512Reader<R> {
    reader: R,
    hasher: Sha512,
    expected: [u8; SHA512_BYTES],
}

impl<R> Sha512Reader<R> {
    /// Wraps `reader`, whose data should have the digest `expected`.
    pub fn new(reader: R, expected: [u8; SHA512_BYTES]) -> Self {
        Self { reader, hasher: Sha512::new(), expected }
    }
}

impl<R: Read> Read for Sha512Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        if count == 0 && !buffer.is_empty() {
            let found: [u8; SHA512_BYTES] = self.hasher.clone().finalize().into();
            if found != self.expected {
                let found = BlobDigest::Sha512(found);
                return Err(Error::data_loss(format!("the blob is damaged: it has the digest {found}")).into());
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_each() {
        let sha512 = BlobDigest::Sha512([0; SHA512_BYTES]).like(b"");
        let sha256 = BlobDigest::from(Digest::of(b""));
        assert!(sha512.to_string().starts_with("sha512:cf83e1357eefb8bd"));
        for good in [sha256, sha512] {
            assert_eq!(good.to_string().parse::<BlobDigest>().expect("round trip"), good);
            good.to_string().to_uppercase().parse::<BlobDigest>().expect_err("upper case");
        }
        assert!(sha512.path().starts_with("blobs/sha512/cf83e1"));
        for bad in ["", "sha512:", "sha512:00", "md5:00", "sha256:../../etc"] {
            bad.parse::<BlobDigest>().expect_err(bad);
        }
    }

    #[test]
    fn a_reader_compares_at_the_end() {
        let BlobDigest::Sha512(expected) = BlobDigest::Sha512([0; SHA512_BYTES]).like(b"abc") else { unreachable!() };
        let read = |bytes: &[u8]| io::copy(&mut Sha512Reader::new(bytes, expected), &mut io::sink());
        assert_eq!(read(b"abc").expect("intact"), 3);
        assert!(read(b"abd").expect_err("damaged").to_string().contains("damaged"));
    }
}
