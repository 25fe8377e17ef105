//! Names of images in registries: `[REGISTRY/]PATH[:TAG|@DIGEST]`.
//!
//! # References
//! OCI distribution specification, "Pulling manifests"; docker's rules for names without a registry.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::image::BlobDigest;
use crate::image::name::{DEFAULT_REGISTRY, check_name, split_registry};

/// The tag of a name without a tag.
const DEFAULT_TAG: &str = "latest";

/// An image in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The registry: a host, and a port unless it is the default one.
    pub registry: String,
    /// The path of the image in the registry.
    pub repository: String,
    /// The tag; `None` if only a digest is given.
    pub tag: Option<String>,
    /// The digest of the manifest or index.
    pub digest: Option<BlobDigest>,
}

impl Reference {
    /// Returns the last part of the manifest's address: the digest, or else the tag.
    pub(super) fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned()),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        check_name(name)?;
        let (registry, path) = split_registry(name);
        let (path, tag) = match path.split_once(':') {
            Some((path, tag)) => (path, Some(tag.to_owned())),
            None => (path, None),
        };
        let library = if registry == DEFAULT_REGISTRY && !path.contains('/') { "library/" } else { "" };
        let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { registry: registry.to_owned(), repository: format!("{library}{path}"), tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_left_out() {
        let digest = format!("sha256:{:064}", 0);
        for (text, whole) in [
            ("debian", "docker.io/library/debian:latest".to_owned()),
            ("debian:13", "docker.io/library/debian:13".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("index.docker.io/debian", "docker.io/library/debian:latest".to_owned()),
            ("localhost:5000/x", "localhost:5000/x:latest".to_owned()),
            ("localhost/x:1", "localhost/x:1".to_owned()),
            ("registry.test/a/b/c:1", "registry.test/a/b/c:1".to_owned()),
            (&format!("app@{digest}"), format!("docker.io/library/app@{digest}")),
            (&format!("registry.test/app:1@{digest}"), format!("registry.test/app:1@{digest}")),
        ] {
            assert_eq!(text.parse::<Reference>().expect(text).to_string(), whole, "{text}");
        }
        for bad in ["", "App", "a:", "a@", "a@sha256:0", "https://registry.test/a", "a b", "@sha256:0"] {
            bad.parse::<Reference>().expect_err(bad);
        }
    }
}
