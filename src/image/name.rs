//! Names of images as users write them. The rules are those of registries, docker and podman.
//!
//! The name of an image in a layout is kept unchanged, even if it is not valid by these rules.
//!
//! # References
//! OCI distribution specification, "Pulling manifests": `<name>` and `<reference>` as a tag.

use regex::Regex;

use crate::error::{Error, ErrorKind, Result};
use crate::id::Digest;

/// A registry, a path in lower case, a tag.
const NAME: &str = r"^(?<path>([A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?/)?[a-z0-9]+(([._/]|__|-+)[a-z0-9]+)*)(?<tag>:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$";

/// The longest registry and path, in bytes.
const PATH_BYTES_MAX: usize = 255;

/// Checks that `name` is `[HOST[:PORT]/]PATH[:TAG]` and not an image ID.
///
/// # Errors
/// `InvalidArgument`.
pub fn check_name(name: &str) -> Result<()> {
    has_tag(name)?.map(drop).ok_or_else(|| {
        let shown: String = name.chars().take(64).collect();
        Error::invalid(format!(
            "{shown:?} is no name for an image: [HOST[:PORT]/]PATH[:TAG], the path in lower case, as in example.org/app:1"
        ))
    })
}

/// Returns whether `name` has a tag; `None` if it is not a valid name.
pub(super) fn has_tag(name: &str) -> Result<Option<bool>> {
    let pattern =
        Regex::new(NAME).map_err(|error| Error::new(ErrorKind::Io, "preparing to look at names").with_source(error))?;
    let found = pattern.captures(name).filter(|found| found["path"].len() <= PATH_BYTES_MAX);
    let is_id = name.parse::<Digest>().is_ok();
    Ok(found.filter(|_| !is_id).map(|found| found.name("tag").is_some()))
}

/// The registry of a name without a registry. A path of one component gets [`DEFAULT_PATH`] there.
pub(super) const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_PATH: &str = "library/";

/// Returns true if two names mean one image. The default registry, `library/` and the tag `latest` may be left out.
pub(super) fn same_image(one: &str, other: &str) -> bool {
    one == other || whole(one) == whole(other)
}

/// Returns the name with its registry, `library/` and tag filled in.
fn whole(name: &str) -> String {
    let (registry, path) = split_registry(name);
    let library = if registry == DEFAULT_REGISTRY && !path.contains('/') { DEFAULT_PATH } else { "" };
    let tag = if path.contains([':', '@']) { "" } else { ":latest" };
    format!("{registry}/{library}{path}{tag}")
}

/// Splits a name into its registry and the rest.
pub(super) fn split_registry(name: &str) -> (&str, &str) {
    let is_host = |host: &str| host == "localhost" || host.contains(['.', ':']);
    let (registry, path) = name.split_once('/').filter(|(host, _)| is_host(host)).unwrap_or((DEFAULT_REGISTRY, name));
    if registry == "index.docker.io" { (DEFAULT_REGISTRY, path) } else { (registry, path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_left_out() {
        for (one, other, expected) in [
            ("app", "docker.io/library/app:latest", true),
            ("index.docker.io/user/app:1", "user/app:1", true),
            ("localhost/app", "localhost/app:latest", true),
            ("localhost:5000/app", "app", false),
            ("app:1", "app:2", false),
            ("registry.test/app", "registry.test/library/app", false),
        ] {
            assert_eq!(same_image(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn names() {
        let long = "a".repeat(PATH_BYTES_MAX);
        for good in [
            "app",
            "app:1",
            "a-b__c.d/e:X_y.z-1",
            "localhost/app",
            "Host:5000/a/b",
            "1.0",
            &long,
            &format!("a:{}", "t".repeat(128)),
        ] {
            check_name(good).expect(good);
        }
        let id = Digest::of(b"").to_string();
        for bad in [
            "",
            "App",
            "app:",
            ":1",
            "a/",
            "/a",
            "a//b",
            "a b",
            "a:b:c",
            "a@b",
            "a:-",
            "-a",
            "a_",
            "a\n",
            "ä",
            "../a",
            &id,
            &format!("app@{id}"),
            &format!("{long}a"),
            &format!("a:{}", "t".repeat(129)),
        ] {
            assert_eq!(check_name(bad).expect_err(bad).kind(), ErrorKind::InvalidArgument, "{bad}");
        }
    }
}
