//! The flags of an instruction: `--name=value`, or `--name`, before its arguments.
//!
//! # References
//! Dockerfile reference; BuildKit, `frontend/dockerfile/parser`.

use super::lines::Logical;
use super::position::{Lines, Position};
use super::words::leading_flags;
use crate::error::{ErrorKind, Result};

/// Maximum number of flags of one instruction: each `--mount` is a mount of the container, and the search for repeated
/// flags takes quadratic time.
const FLAGS_MAX: usize = 256;

/// The flags that may be given several times.
const REPEATED: [&str; 2] = ["mount", "exclude"];

/// The flags of an instruction that [`Flags::take`] has not returned yet.
pub(super) struct Flags {
    left: Vec<(Position, String, Option<String>)>,
}

impl Flags {
    /// Reads the flags that begin at `start` of the line. Also returns the offset of the arguments after them.
    ///
    /// # Errors
    /// `InvalidArgument` for too many flags, and for a flag that is given twice.
    pub(super) fn read(lines: &Lines<'_>, escape: char, line: &Logical, start: usize) -> Result<(Self, usize)> {
        let (words, end) = leading_flags(&line.text[start..], escape);
        let at = |offset: usize| lines.at(line.source(start + offset));
        if let Some((offset, _)) = words.get(FLAGS_MAX) {
            return Err(at(*offset).wrong(format!("one instruction has at most {FLAGS_MAX} flags")));
        }
        let mut left: Vec<(Position, String, Option<String>)> = Vec::new();
        for (offset, word) in words {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name[2..].to_owned(), Some(value.to_owned())),
                None => (word[2..].to_owned(), None),
            };
            if !REPEATED.contains(&name.as_str()) && left.iter().any(|(_, known, _)| *known == name) {
                return Err(at(offset).wrong(format!("--{name} is given twice")));
            }
            left.push((at(offset), name, value));
        }
        Ok((Self { left }, start + end))
    }

    /// Takes the flag `name`.
    ///
    /// # Errors
    /// `InvalidArgument` if the flag has no value.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<(Position, String)>> {
        let Some(found) = self.left.iter().position(|(_, known, _)| known == name) else { return Ok(None) };
        match self.left.remove(found) {
            (at, _, Some(value)) => Ok(Some((at, value))),
            (at, name, None) => Err(at.wrong(format!("--{name} needs a value: --{name}=VALUE"))),
        }
    }

    /// Takes all flags `name`.
    ///
    /// # Errors
    /// `InvalidArgument` if a flag has no value.
    pub(super) fn take_all(&mut self, name: &str) -> Result<Vec<(Position, String)>> {
        let mut taken = Vec::new();
        while let Some(flag) = self.take(name)? {
            taken.push(flag);
        }
        Ok(taken)
    }

    /// Takes the flag `name`, which is `true` or `false`; without a value it is `true`.
    ///
    /// # Errors
    /// `InvalidArgument` for another value.
    pub(super) fn take_bool(&mut self, name: &str) -> Result<Option<bool>> {
        let Some(found) = self.left.iter().position(|(_, known, _)| known == name) else { return Ok(None) };
        let (at, _, value) = self.left.remove(found);
        match value.as_deref().map(str::to_lowercase).as_deref() {
            None | Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(value) => Err(at.wrong(format!("--{name}={value} should be true or false"))),
        }
    }

    /// Refuses the flags that were not taken.
    ///
    /// # Errors
    /// `Unsupported` for a flag that the instruction does not know.
    pub(super) fn finish(self, instruction: &str) -> Result<()> {
        match self.left.into_iter().next() {
            None => Ok(()),
            Some((at, name, _)) => {
                Err(at.error(ErrorKind::Unsupported, format!("{instruction} with --{name} is not supported")))
            }
        }
    }
}
