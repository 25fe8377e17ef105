//! The platform of an image: `os/architecture[/variant]`.
//!
//! # References
//! OCI image specification, `image-index.md`, "platform"; the values are Go's `GOOS` and `GOARCH`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A platform in the words of image indexes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    /// The operating system: `linux`.
    pub os: String,
    /// The processor: `amd64`, `arm64`, ...
    pub architecture: String,
    /// Its variant: `v7`, `v8`, ...
    pub variant: Option<String>,
}

impl Platform {
    /// Returns the platform of this program.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            arch => go_name(arch),
        };
        Self { os: std::env::consts::OS.to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Returns true if something for `self` is something for `wanted`. A wish without a variant takes any.
    pub fn suits(&self, wanted: &Self) -> bool {
        self.os == wanted.os
            && go_name(&self.architecture) == go_name(&wanted.architecture)
            && (wanted.variant.is_none() || self.variant() == wanted.variant())
    }

    /// Its variant, or what is meant where none is given.
    fn variant(&self) -> &str {
        match (&self.variant, go_name(&self.architecture)) {
            (Some(variant), _) if !variant.is_empty() => variant,
            (_, "arm64") => "v8",
            (_, "arm") => "v7",
            (_, "amd64") => "v1",
            _ => "",
        }
    }

    /// Returns true if its variant is the usual one.
    pub fn is_usual(&self) -> bool {
        self.variant() == Self { variant: None, ..self.clone() }.variant()
    }
}

/// Go's name of an architecture that others, Rust and `uname` among them, call otherwise.
fn go_name(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" | "i686" => "386",
        "powerpc64" => "ppc64",
        "powerpc64le" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Returns the platform of these parts, unless the operating system or the architecture is absent or empty.
pub(super) fn platform_of(
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
) -> Option<Platform> {
    let given = |part: Option<String>| part.filter(|part| !part.is_empty());
    Some(Platform { os: given(os)?, architecture: given(architecture)?, variant: given(variant) })
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => ("", "", None),
        };
        if os.is_empty() || architecture.is_empty() || variant == Some("") {
            return Err(Error::invalid(format!(
                "{text:?} is no platform: os/architecture[/variant], as linux/arm64/v8"
            )));
        }
        let architecture = go_name(architecture).to_owned();
        Ok(Self { os: os.to_owned(), architecture, variant: variant.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling() {
        for good in ["linux/amd64", "linux/arm/v6"] {
            assert_eq!(good.parse::<Platform>().expect(good).to_string(), good);
        }
        assert_eq!("linux/x86_64".parse::<Platform>().expect("uname's name").to_string(), "linux/amd64");
        for bad in ["", "linux", "linux/", "/amd64", "linux/arm/", "linux/arm/v6/x"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn who_suits_whom() {
        let suits =
            |have: &str, wanted: &str| have.parse::<Platform>().expect(have).suits(&wanted.parse().expect(wanted));
        assert!(suits("linux/arm64/v8", "linux/arm64") && suits("linux/arm64", "linux/arm64/v8"));
        assert!(suits("linux/arm/v6", "linux/arm") && !suits("linux/arm/v6", "linux/arm/v7"));
        assert!(!suits("linux/amd64", "linux/arm64") && !suits("windows/amd64", "linux/amd64"));
        assert!(Platform::host().suits(&Platform::host()));
    }
}
