//! `--chmod`: an octal number, or clauses such as `u=rwX,go=rX`.
//!
//! # References
//! Dockerfile reference, "COPY --chmod"; `chmod(1)`.

use crate::tree::MODE_MASK;

/// The mode of a directory that neither a source nor an octal `--chmod` describes.
const NEW_DIR: u32 = 0o755;

/// The value of `--chmod`: a change of modes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chmod {
    /// All files get this mode.
    To(u32),
    /// These clauses change the mode of each file, one after the other.
    Clauses(Vec<Clause>),
}

/// One clause, such as `go=rX`: `who` is `go`, and `what` is `rX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clause {
    /// The mode bits of the user, the group and others, as far as the clause names them, with set-ID and sticky bits.
    who: u32,
    operator: char,
    what: Vec<What>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Bits(u32),
    /// `X`: execution, for directories and for files that have an execution bit.
    Executable,
    /// `u`, `g` or `o`: a copy of these permissions, which are shifted by this number of bits in a mode.
    Of(u32),
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHERS: u32 = 0o1007;

impl Chmod {
    /// Reads the value of `--chmod`; `None` if the value is invalid.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= MODE_MASK).map(Self::To);
        }
        let mut clauses = Vec::new();
        for text in text.split(',') {
            clauses.extend(clauses_of(text)?);
        }
        Some(Self::Clauses(clauses))
    }

    /// Returns the new mode of a file that has `mode`.
    pub(super) fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::To(mode) => *mode,
            Self::Clauses(clauses) => clauses.iter().fold(mode, |mode, clause| clause.apply(mode, is_dir)),
        }
    }

    /// Returns the mode of a missing directory of a target.
    pub(super) fn of_new_dir(chmod: Option<&Self>) -> u32 {
        if let Some(Self::To(mode)) = chmod { *mode } else { NEW_DIR }
    }
}

/// Returns the clauses of one part between commas: `u+r-w` has two clauses.
fn clauses_of(text: &str) -> Option<Vec<Clause>> {
    let start = text.find(['+', '-', '='])?;
    let mut who = 0;
    for c in text[..start].chars() {
        who |= match c {
            'u' => USER,
            'g' => GROUP,
            'o' => OTHERS,
            'a' => MODE_MASK,
            _ => return None,
        };
    }
    let who = if start == 0 { MODE_MASK } else { who };
    let mut clauses: Vec<Clause> = Vec::new();
    for c in text[start..].chars() {
        let what = match c {
            '+' | '-' | '=' => {
                clauses.push(Clause { who, operator: c, what: Vec::new() });
                continue;
            }
            'r' => What::Bits(0o444),
            'w' => What::Bits(0o222),
            'x' => What::Bits(0o111),
            's' => What::Bits(0o6000),
            't' => What::Bits(0o1000),
            'X' => What::Executable,
            'u' => What::Of(6),
            'g' => What::Of(3),
            'o' => What::Of(0),
            _ => return None,
        };
        clauses.last_mut()?.what.push(what);
    }
    Some(clauses)
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let bits = |what: &What| match what {
            What::Bits(bits) => *bits,
            What::Executable if is_dir || mode & 0o111 != 0 => 0o111,
            What::Executable => 0,
            What::Of(shift) => ((mode >> shift) & 7) * 0o111,
        };
        let bits = self.what.iter().map(bits).fold(0, |all, bits| all | bits) & self.who;
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => (mode & !self.who) | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each change, the mode before, and what `chmod` makes of it.
    #[test]
    fn clauses() {
        for (text, is_dir, before, after) in [
            ("644", false, 0o755, 0o644),
            ("0", false, 0o755, 0),
            ("u=rwX,go=rX", false, 0o600, 0o644),
            ("u=rwX,go=rX", true, 0o600, 0o755),
            ("u=rwX,go=rX", false, 0o700, 0o755),
            ("+x", false, 0o640, 0o751),
            ("a-w", false, 0o666, 0o444),
            ("g=u", false, 0o640, 0o660),
            ("u+s,+t", false, 0o755, 0o5755),
            ("u+r-w", false, 0o200, 0o400),
            ("o=", false, 0o757, 0o750),
            ("g+u,o-g", false, 0o604, 0o660),
        ] {
            let chmod = Chmod::parse(text).expect(text);
            assert_eq!(chmod.apply(before, is_dir), after, "{text} of {before:o}");
        }
        for wrong in ["", "8", "64a", "10000", "u", "z+x", "u+z", "u=rw,"] {
            assert_eq!(Chmod::parse(wrong), None, "{wrong}");
        }
    }

    /// [`Chmod`] and the program `chmod` agree, for clauses of one operator and every kind of mode.
    #[test]
    fn chmod_agrees() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f");
        std::fs::write(&file, "").expect("write");
        for who in ["u", "g", "o", "a", "ug"] {
            for operator in ["+", "-", "="] {
                for what in ["r", "wx", "X", "s", "t", "u", "g", "o", ""] {
                    for before in [0o000, 0o640, 0o715, 0o4751, 0o3070] {
                        use std::os::unix::fs::PermissionsExt as _;
                        let text = format!("{who}{operator}{what}");
                        let mode = std::fs::Permissions::from_mode(before);
                        std::fs::set_permissions(&file, mode).expect("set the mode");
                        let done = std::process::Command::new("chmod").arg("--").arg(&text).arg(&file).status();
                        assert!(done.expect("chmod").success(), "{text}");
                        let after = std::fs::metadata(&file).expect("stat").permissions().mode() & MODE_MASK;
                        let ours = Chmod::parse(&text).expect("a mode").apply(before, false);
                        assert_eq!(ours, after, "{text} of {before:o}");
                    }
                }
            }
        }
    }
}
