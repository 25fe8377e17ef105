//! Settings for containerd, by its version.
//!
//! A wrong entry is worse than none: 1.6 does not start with `type = "diff"`, and a snapshotter that claims `rebase`
//! loses whiteouts; one that claims `only-remap-ids` is not used where its kernel cannot translate ids. So the settings
//! are printed rather than described.
//!
//! # References
//! containerd, `docs/PLUGINS.md`, `docs/transfer.md`, `plugins/proxy`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A version of containerd, as far as its settings depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

/// The first that can have a differ in another process, and tell its unpacker which one to use.
const DIFFERS: Version = Version { major: 1, minor: 7 };

/// The capability to mount a snapshot with the ids of a user namespace. A containerd that does not know of it copies
/// the image with other owners.
pub(super) const REMAP_IDS: &str = "remap-ids";

/// The first that takes exports and capabilities of a proxy plugin.
const EXPORTS: Version = Version { major: 2, minor: 0 };

/// The first that strata's mounts are right for: what is older is out of support for years.
const OLDEST: Version = Version { major: 1, minor: 5 };

impl FromStr for Version {
    type Err = Error;

    /// Accepts `1.7`, `v2.1.4`, `1.7.24~ds1`: what `containerd --version` prints.
    fn from_str(text: &str) -> Result<Self> {
        let number = |part: Option<&str>| part.and_then(|part| part.parse().ok());
        let mut parts = text.trim_start_matches('v').split('.');
        match (number(parts.next()), number(parts.next())) {
            (Some(major), Some(minor)) if (Self { major, minor }) >= OLDEST => Ok(Self { major, minor }),
            (Some(_), Some(_)) => Err(Error::unsupported(format!("containerd {text} is older than {OLDEST}"))),
            _ => Err(Error::invalid(format!("{text:?} is no version of containerd: try 1.7 or 2.1"))),
        }
    }
}

impl Version {
    /// Whether it can have a differ in another process.
    pub fn has_differs(self) -> bool {
        self >= DIFFERS
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The settings of a containerd of `version` that is to use the daemon at `socket`, whose store is at `root`.
/// `platform` is that of the machine, as images call it.
pub fn settings(version: Version, socket: &Path, root: &Path, platform: &str) -> String {
    let socket = quoted(socket);
    let snapshotter = format!("[proxy_plugins.strata]\n  type = \"snapshot\"\n  address = {socket}\n");
    if !version.has_differs() {
        return format!(
            "# For containerd {version}. It cannot have a differ in another process (type = \"diff\" keeps it from\n\
             # starting), so layers are applied and made by its own; snapshots are strata's.\nversion = 2\n\n{snapshotter}"
        );
    }
    let differ = format!("[proxy_plugins.strata-diff]\n  type = \"diff\"\n  address = {socket}\n");
    let entry = |snapshotter: &str, differ: &str| {
        format!(
            "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n  platform = {platform:?}\n  \
             snapshotter = {snapshotter:?}\n  differ = {differ:?}\n"
        )
    };
    let unpack = format!(
        "# This list replaces containerd's own, so it has the entry of that one too, first. Add what your list had besides\n\
         # (erofs with the differ erofs, where that snapshotter is used).\n{}\n{}",
        entry("overlayfs", "walking"),
        entry("strata", "strata-diff")
    );
    let order = "# The differ passes on what is not strata's; if it does not run, containerd's clients apply no layer at all.\n\
         [plugins.\"io.containerd.service.v1.diff-service\"]\n  default = [\"strata-diff\", \"walking\"]\n".to_owned();
    let (head, format, exports) = if version < EXPORTS {
        ("It takes no capabilities and no exports of a proxy plugin.", 2, String::new())
    } else {
        let root = quoted(root);
        let entry = format!("  capabilities = [{REMAP_IDS:?}]\n  [proxy_plugins.strata.exports]\n    root = {root}\n");
        ("Claim no capability but remap-ids (Linux 5.19 or later): strata has neither rebase nor others.", 3, entry)
    };
    format!(
        "# For containerd {version}. {head}\n# strata serve needs --containerd with the address of this containerd.\n\
         version = {format}\n\n{snapshotter}{exports}\n{differ}\n{unpack}\n{order}"
    )
}

/// A path as a string of TOML.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::settings;
    use super::*;

    fn parsed(version: &str) -> toml::Table {
        let version = version.parse().expect("a version");
        let text = settings(version, Path::new("/run/a \"b\"/s"), Path::new("/var/lib/strata"), "linux/amd64");
        text.parse().unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[test]
    fn versions() {
        for (text, version) in [("1.7", (1, 7)), ("v2.1.4", (2, 1)), ("1.6.20~ds1", (1, 6)), ("2.10", (2, 10))] {
            let Version { major, minor } = text.parse().expect(text);
            assert_eq!((major, minor), version, "{text}");
        }
        for text in ["", "2", "x.y", "1.4", "0.9.1"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_version_is_told_what_it_understands() {
        for version in ["1.6.20", "1.7.24", "2.0.0", "2.2"] {
            let told = parsed(version);
            let proxies = told["proxy_plugins"].as_table().expect("proxies");
            assert_eq!(proxies["strata"]["address"].as_str(), Some("/run/a \"b\"/s"), "{version}");
            let claimed = proxies["strata"].get("capabilities").map(ToString::to_string);
            let remaps = version.starts_with('2').then(|| "[\"remap-ids\"]".to_owned());
            assert_eq!(claimed, remaps, "{version}");
            assert_eq!(proxies.contains_key("strata-diff"), version != "1.6.20", "{version}");
            assert_eq!(told.contains_key("plugins"), version != "1.6.20", "{version}");
            assert_eq!(proxies["strata"].get("exports").is_some(), version.starts_with('2'), "{version}");
            if version != "1.6.20" {
                assert_eq!(settings::mistakes(std::slice::from_ref(&told)), Vec::<String>::new(), "{version}");
            }
            assert_eq!(told["version"].as_integer(), Some(if version.starts_with('2') { 3 } else { 2 }), "{version}");
        }
    }
}
