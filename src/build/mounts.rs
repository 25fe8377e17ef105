//! `RUN --mount`: files that a command sees, and that are in no layer.
//!
//! # References
//! Dockerfile reference, "RUN --mount"; RFC 4180, for commas in values.

use super::context::Selected;
use super::parse::Position;
use crate::container::Bind;
use crate::error::{Error, Result};

/// The options of each kind of mount, besides `type` and `target`.
const KINDS: [(&str, &[&str]); 5] = [
    ("bind", &["from", "source", "ro", "rw"]),
    ("cache", &["from", "source", "ro", "rw", "id", "sharing", "uid", "gid", "mode"]),
    ("tmpfs", &["size", "ro", "rw"]),
    ("secret", &["source", "ro", "id", "required", "env", "uid", "gid", "mode"]),
    ("ssh", &["ro", "id", "required", "uid", "gid", "mode"]),
];

/// Other names of options.
const ALIASES: [(&str, &str); 5] =
    [("src", "source"), ("dst", "target"), ("destination", "target"), ("readonly", "ro"), ("readwrite", "rw")];

/// A mount of a command.
#[derive(Clone, Debug)]
pub(super) enum RunMount {
    /// A directory in memory.
    Tmpfs { target: String, size_bytes: Option<u64>, read_only: bool },
    /// A directory that builds share, and that outlives them.
    Cache { cache: CacheMount, target: String, read_only: bool },
    /// A file or directory of the build context, opened when the build was planned, read-only.
    Context { selected: Box<Selected>, bind: Bind },
    /// A copy of a file or directory of the build context, which the command may change.
    ContextCopy { selected: Box<Selected>, target: String },
    /// A file or directory of a stage or an image.
    Tree { from: MountFrom, source: String, target: String, read_only: bool },
    /// A secret of the caller of the build.
    Secret { id: String, target: Option<String>, env: Option<String>, owner: Ownership },
    /// An SSH agent of the caller.
    Ssh { id: String, target: String, owner: Ownership },
}

impl RunMount {
    /// Returns the stage or image of the mount's files, or of the cache's first content.
    pub(super) fn from(&self) -> Option<&MountFrom> {
        match self {
            Self::Cache { cache, .. } => cache.from.as_ref(),
            Self::Tree { from, .. } => Some(from),
            _ => None,
        }
    }
}

/// A cache, and the owner and first content with which it is made.
#[derive(Clone, Debug)]
pub(super) struct CacheMount {
    pub(super) id: String,
    pub(super) sharing: Sharing,
    pub(super) owner: Ownership,
    /// The stage or image with the cache's first content, at the path `source`.
    pub(super) from: Option<MountFrom>,
    pub(super) source: String,
}

/// The rule for commands that use a cache at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// The commands use one directory at the same time.
    Shared,
    /// Each command has a directory of its own.
    Private,
    /// A command waits until no other command uses the cache.
    Locked,
}

/// Owner, group and mode; `None` for an option that was not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Ownership {
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mode: Option<u32>,
}

/// The stage or image that a mount takes files from.
#[derive(Clone, Debug)]
pub(super) enum MountFrom {
    /// The stage of this number.
    Stage(usize),
    /// The image with this topmost layer.
    Image(Option<String>),
}

/// The options of a mount, each of them valid for the mount's kind.
pub(super) struct MountOptions<'a> {
    at: &'a Position,
    pub(super) kind: &'static str,
    options: Vec<(String, Option<String>)>,
}

impl<'a> MountOptions<'a> {
    /// Reads the value of `--mount`; `expand` replaces the variables of an option's value.
    ///
    /// # Errors
    /// `InvalidArgument` for options that the kind does not have.
    pub(super) fn read(at: &'a Position, text: &str, expand: impl Fn(&str) -> Result<String>) -> Result<Self> {
        let mut options = Vec::new();
        for field in fields(text).ok_or_else(|| at.wrong("--mount: a quote is not closed"))? {
            let (name, value) = match field.split_once('=') {
                Some((name, value)) => (name.to_lowercase(), Some(expand(value)?)),
                None => (field.to_lowercase(), None),
            };
            let known = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name.as_str(), |(_, name)| name);
            options.push((known.to_owned(), value));
        }
        let kind = options.iter().rfind(|(name, _)| name == "type");
        let kind = kind.and_then(|(_, kind)| kind.as_deref()).unwrap_or("bind").to_lowercase();
        let Some((kind, known)) = KINDS.iter().find(|(name, _)| *name == kind) else {
            return Err(at.wrong(format!("--mount=type={kind}: there is bind, cache, tmpfs, secret and ssh")));
        };
        for (name, value) in &options {
            if !["type", "target"].contains(&name.as_str()) && !known.contains(&name.as_str()) {
                let known = known.join(", ");
                return Err(at.wrong(format!("--mount=type={kind} has no {name:?}: it has target, {known}")));
            }
            if value.is_none() && !["ro", "rw", "required"].contains(&name.as_str()) {
                return Err(at.wrong(format!("--mount: {name} needs a value")));
            }
        }
        Ok(Self { at, kind, options })
    }

    /// Returns the value of an option; if the option is given several times, the last value.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.options.iter().rfind(|(known, _)| known == name)?.1.as_deref()
    }

    pub(super) fn wrong(&self, what: impl std::fmt::Display) -> Error {
        self.at.wrong(format!("--mount=type={}: {what}", self.kind))
    }

    /// Returns the value of an option that is true or false; an option without a value is true.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>> {
        let Some((_, value)) = self.options.iter().rfind(|(known, _)| known == name) else { return Ok(None) };
        match value.as_deref().map(str::to_lowercase).as_deref() {
            None | Some("true" | "1" | "t") => Ok(Some(true)),
            Some("false" | "0" | "f") => Ok(Some(false)),
            Some(other) => Err(self.wrong(format!("{name}={other} should be true or false"))),
        }
    }

    /// Returns whether the mount is read-only; `unless_said` is the default.
    pub(super) fn read_only(&self, unless_said: bool) -> Result<bool> {
        let writes = self.flag("rw")?.map(|writes| !writes);
        Ok(self.flag("ro")?.or(writes).unwrap_or(unless_said))
    }

    fn number(&self, name: &str, radix: u32, max: u32) -> Result<Option<u32>> {
        let number = |text: &str| {
            let number = u32::from_str_radix(text, radix).ok().filter(|number| *number <= max);
            number.ok_or_else(|| self.wrong(format!("{name}={text} is no number that it can be")))
        };
        self.value(name).map(number).transpose()
    }

    pub(super) fn ownership(&self) -> Result<Ownership> {
        Ok(Ownership {
            uid: self.number("uid", 10, u32::MAX - 1)?,
            gid: self.number("gid", 10, u32::MAX - 1)?,
            mode: self.number("mode", 8, crate::tree::MODE_MASK)?,
        })
    }

    pub(super) fn sharing(&self) -> Result<Sharing> {
        match self.value("sharing").map(str::to_lowercase).as_deref() {
            None | Some("shared") => Ok(Sharing::Shared),
            Some("private") => Ok(Sharing::Private),
            Some("locked") => Ok(Sharing::Locked),
            Some(other) => Err(self.wrong(format!("sharing={other}: there is shared, private and locked"))),
        }
    }

    /// Returns the size of a tmpfs; `None`, for 0 too, is the kernel's default.
    pub(super) fn size(&self) -> Result<Option<u64>> {
        let size = |text: &str| size(text).ok_or_else(|| self.wrong(format!("size={text} is no number of bytes")));
        Ok(self.value("size").map(size).transpose()?.filter(|size| *size > 0))
    }
}

/// Reads a number of bytes, such as `64m`, `1.5GB` or `4096`.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let text = text.strip_suffix('i').unwrap_or(text);
    let (number, shift) = match text.char_indices().next_back()? {
        (at, 'k') => (&text[..at], 10),
        (at, 'm') => (&text[..at], 20),
        (at, 'g') => (&text[..at], 30),
        (at, 't') => (&text[..at], 40),
        _ => (text, 0),
    };
    let number: f64 = number.trim().parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    let bytes = number * (1_u64 << shift) as f64;
    // A float holds every integer up to 2^53 exactly, and no machine has more memory.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the bounds of both")]
    (bytes <= (1_u64 << 53) as f64).then_some(bytes as u64)
}

/// Splits a text at commas; a field in double quotes may hold commas. `None` if a quote is not closed.
pub(super) fn fields(text: &str) -> Option<Vec<String>> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1", Some(1)),
            ("2k", Some(2048)),
            ("1.5m", Some(3 << 19)),
            ("1GiB", Some(1 << 30)),
            ("64MB", Some(64 << 20)),
            ("x", None),
            ("-1", None),
            ("1e300", None),
            ("", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn commas() {
        let fields = |text: &str| fields(text).unwrap_or_default();
        assert_eq!(fields("a=b,c"), ["a=b", "c"]);
        assert_eq!(fields("\"a=b,\"\"c\",d"), ["a=b,\"c", "d"]);
        assert!(fields("\"a").is_empty());
    }
}
