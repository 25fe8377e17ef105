//! Reads the options of `strata run` for mounts.
//!
//! # References
//! docker's command line, "docker run": `--volume`, `--mount`, `--tmpfs`.

use std::path::PathBuf;

use super::mounts::{fields, size};
use crate::container::Tmpfs;
use crate::error::{Error, Result};
use crate::mount::Access;

/// A parsed `--mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedMount {
    /// A file or directory of the machine.
    Bind {
        /// Path on this machine.
        source: PathBuf,
        /// The mount point, as an absolute path of the container.
        target: String,
        /// Whether the container may write to it.
        access: Access,
    },
    /// A directory in memory.
    Tmpfs(Tmpfs),
}

/// Reads a volume, `SRC:DST[:ro]`: returns the source, the target, and whether the volume is read-only.
///
/// # Errors
/// `InvalidArgument` if the text is no `SRC:DST[:ro]`.
pub fn parse_volume(text: &str) -> Result<(PathBuf, String, bool)> {
    let wrong = || Error::invalid(format!("{text:?} is no volume: SRC:DST or SRC:DST:ro, DST absolute"));
    let (rest, read_only) = match text.strip_suffix(":ro") {
        Some(rest) => (rest, true),
        None => (text.strip_suffix(":rw").unwrap_or(text), false),
    };
    match rest.rsplit_once(':') {
        Some((source, target)) if !source.is_empty() && target.starts_with('/') => {
            Ok((PathBuf::from(source), target.to_owned(), read_only))
        }
        _ => Err(wrong()),
    }
}

/// Reads a mount: `type=bind,source=SRC,target=DST[,readonly]` or `type=tmpfs,target=DST[,tmpfs-size=N]`.
///
/// # Errors
/// `InvalidArgument` for other options and types, or without a target.
pub fn parse_mount(text: &str) -> Result<ParsedMount> {
    let wrong = |what: &str| Error::invalid(format!("{text:?} is no mount: {what}"));
    let (mut kind, mut source, mut target) = (String::new(), None, None);
    let (mut access, mut size_bytes) = (Access::ReadWrite, None);
    for field in fields(text).ok_or_else(|| wrong("a quote is not closed"))? {
        let (name, value) = field.split_once('=').unwrap_or((&field, ""));
        match name {
            "type" => value.clone_into(&mut kind),
            "source" | "src" => source = Some(PathBuf::from(value)),
            "target" | "dst" | "destination" => target = Some(value.to_owned()),
            "readonly" | "ro" if ["", "true", "1"].contains(&value) => access = Access::ReadOnly,
            "readonly" | "ro" if ["false", "0"].contains(&value) => {}
            "tmpfs-size" => size_bytes = Some(size(value).ok_or_else(|| wrong("its size is no number of bytes"))?),
            _ => return Err(wrong(&format!("it has no {field:?}"))),
        }
    }
    let target = target.filter(|target| target.starts_with('/')).ok_or_else(|| wrong("target=DST is absolute"))?;
    match (kind.as_str(), source, size_bytes) {
        ("bind", Some(source), None) => Ok(ParsedMount::Bind { source, target, access }),
        ("tmpfs", None, size_bytes) => Ok(ParsedMount::Tmpfs(Tmpfs { target, size_bytes, access })),
        _ => Err(wrong("type=bind has source=SRC, type=tmpfs has tmpfs-size=N, and there is no other type")),
    }
}

/// Reads a directory in memory: `DST`, or `DST:size=N,ro`.
///
/// # Errors
/// `InvalidArgument` for other options, or a path that is not absolute.
pub fn parse_tmpfs(text: &str) -> Result<Tmpfs> {
    let wrong = || Error::invalid(format!("{text:?} is no directory in memory: DST or DST:size=N,ro, DST absolute"));
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut tmpfs = Tmpfs { target: target.to_owned(), size_bytes: None, access: Access::ReadWrite };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", bytes) => tmpfs.size_bytes = Some(size(bytes).ok_or_else(wrong)?),
            ("ro", "") => tmpfs.access = Access::ReadOnly,
            // Every mount is `nosuid` and `nodev`, and `rw` is the default.
            ("rw" | "nosuid" | "nodev", "") => {}
            _ => return Err(wrong()),
        }
    }
    if target.starts_with('/') { Ok(tmpfs) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts() {
        let target = "/d".to_owned();
        let bind = |access| ParsedMount::Bind { source: "s".into(), target: target.clone(), access };
        let tmpfs =
            |size_bytes| ParsedMount::Tmpfs(Tmpfs { target: target.clone(), size_bytes, access: Access::ReadWrite });
        for (text, mount) in [
            ("type=bind,source=s,target=/d", bind(Access::ReadWrite)),
            ("type=bind,src=s,dst=/d,readonly", bind(Access::ReadOnly)),
            ("type=tmpfs,destination=/d", tmpfs(None)),
            ("type=tmpfs,target=/d,tmpfs-size=1m", tmpfs(Some(1 << 20))),
        ] {
            assert_eq!(parse_mount(text).ok(), Some(mount), "{text}");
        }
        for wrong in [
            "",
            "type=bind,target=/d",
            "type=tmpfs,target=d",
            "type=volume,source=s,target=/d",
            "type=tmpfs,target=/d,x=y",
        ] {
            assert!(parse_mount(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            parse_tmpfs("/d:size=2k,ro").map(|tmpfs| (tmpfs.size_bytes, tmpfs.access)).ok(),
            Some((Some(2048), Access::ReadOnly))
        );
        assert!(parse_tmpfs("d").is_err() && parse_tmpfs("/d:exec").is_err());
    }
}
