//! Patterns of `.dockerignore`, which leave files out of a build context, and of `--exclude`, out of a copy.
//!
//! `*` matches any text within a component, `?` one character, `[...]` one character of a set. `**` matches any number
//! of components, or none; at the end of a pattern it matches any text.
//!
//! Invariant: the last pattern that matches a path, or a directory above it, decides. Patterns are compiled into sets,
//! so that a path costs little more with 10,000 patterns than with one.
//!
//! # References
//! Dockerfile reference, "`.dockerignore` file", "COPY --exclude"; moby, `patternmatcher`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use regex::bytes::{RegexSet, RegexSetBuilder};

use crate::error::{Error, Result};

/// The most patterns of one set.
const SET_PATTERNS_MAX: usize = 1000;

/// The most memory of a compiled set, in bytes: 1000 patterns of usual length take a hundredth of it.
const SET_BYTES_MAX: usize = 64 << 20;

/// The longest pattern, in bytes: no path of Linux is longer.
const PATTERN_BYTES_MAX: usize = 4096;

/// The patterns of an ignore file.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    /// The sets in reverse order: the last patterns are in the first set.
    sets: Vec<Set>,
    has_exceptions: bool,
}

#[derive(Debug)]
struct Set {
    patterns: RegexSet,
    /// For each pattern, true if it leaves out the paths that it matches, and false if it brings them back (`!`).
    leaves_out: Vec<bool>,
}

impl Ignored {
    /// Reads the text of an ignore file of at most `patterns_max` patterns.
    ///
    /// # Errors
    /// `InvalidArgument` for too many patterns, a pattern that is too long, or invalid syntax.
    pub(super) fn parse(text: &str, patterns_max: usize) -> Result<Self> {
        let lines = text.trim_start_matches('\u{feff}').lines().filter(|line| !line.starts_with('#'));
        let patterns: Vec<_> = lines.filter_map(pattern).take(patterns_max.saturating_add(1)).collect();
        if patterns.len() > patterns_max {
            return Err(Error::invalid(format!(
                ".dockerignore has more than {patterns_max} patterns: --limit patterns=NUMBER allows more"
            )));
        }
        Self::new(patterns).map_err(|error| error.context(".dockerignore"))
    }

    /// Compiles the patterns of `--exclude`.
    ///
    /// # Errors
    /// `InvalidArgument` for a pattern that is longer than any path, or invalid syntax.
    pub(super) fn of<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        Self::new(patterns.into_iter().filter_map(pattern).collect())
    }

    fn new(patterns: Vec<(bool, String)>) -> Result<Self> {
        let has_exceptions = patterns.iter().any(|(leaves_out, _)| !leaves_out);
        let sets = patterns.chunks(SET_PATTERNS_MAX).rev().map(Set::new).collect::<Result<_>>()?;
        Ok(Self { sets, has_exceptions })
    }

    /// Returns whether there are no patterns.
    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Returns whether some patterns bring back what others left out.
    pub(super) fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    /// Returns whether the path, or a directory above it, is left out.
    pub(super) fn covers(&self, path: &Path) -> bool {
        self.sets.iter().find_map(|set| set.decides(path)).unwrap_or_default()
    }
}

impl Set {
    fn new(patterns: &[(bool, String)]) -> Result<Self> {
        let texts = patterns.iter().map(|(_, pattern)| expression(pattern)).collect::<Result<Vec<_>>>()?;
        let set = RegexSetBuilder::new(&texts).size_limit(SET_BYTES_MAX).build().map_err(|error| {
            Error::invalid("the patterns are not right, or too many for their length").with_source(error)
        })?;
        Ok(Self { patterns: set, leaves_out: patterns.iter().map(|(leaves_out, _)| *leaves_out).collect() })
    }

    /// Returns the decision of the last pattern that matches the path or a directory above it; `None` if there is none.
    fn decides(&self, path: &Path) -> Option<bool> {
        let above = path.ancestors().filter(|above| !above.as_os_str().is_empty());
        let last = above.filter_map(|above| self.patterns.matches(above.as_os_str().as_bytes()).iter().next_back());
        self.leaves_out.get(last.max()?).copied()
    }
}

/// Reads a line: whether it leaves out the paths that it matches, and its pattern, cleaned; `None` if that is empty.
fn pattern(line: &str) -> Option<(bool, String)> {
    let line = line.trim();
    let (leaves_out, path) = match line.strip_prefix('!') {
        Some(path) => (false, path.trim()),
        None => (true, line),
    };
    let mut clean = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    (!clean.is_empty()).then(|| (leaves_out, clean.join("/")))
}

/// Returns the regular expression that matches the same paths as `pattern`.
///
/// # Errors
/// `InvalidArgument` for invalid syntax, or a pattern that is longer than any path.
fn expression(pattern: &str) -> Result<String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        let start: String = pattern.chars().take(40).collect();
        return Err(Error::invalid(format!("the pattern {start:?}... is longer than {PATTERN_BYTES_MAX} bytes")));
    }
    let wrong = || Error::invalid(format!("{pattern:?} is no pattern"));
    let mut text = "(?s)^".to_owned();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                text.push_str(if chars.peek().is_some() { "(?:(?-u:.)*/)?" } else { "(?-u:.)*" });
            }
            '*' => text.push_str("(?-u:[^/])*"),
            '?' => text.push_str("[^/]"),
            '[' => class(&mut chars, &mut text).ok_or_else(wrong)?,
            '\\' => literal(chars.next().ok_or_else(wrong)?, &mut text),
            c => literal(c, &mut text),
        }
    }
    text.push('$');
    Ok(text)
}

fn literal(c: char, text: &mut String) {
    text.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
}

/// Reads a character class after its opening bracket, and appends it to `text`; `None` if the class does not end.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, text: &mut String) -> Option<()> {
    text.push('[');
    if chars.next_if(|c| matches!(c, '^' | '!')).is_some() {
        text.push('^');
    }
    let mut is_empty = true;
    loop {
        match chars.next()? {
            ']' if !is_empty => break,
            '-' => text.push('-'),
            '\\' => literal(chars.next()?, text),
            c if c.is_alphanumeric() => text.push(c),
            c if c.is_ascii_punctuation() => text.extend(['\\', c]),
            c => text.push(c),
        }
        is_empty = false;
    }
    text.push(']');
    Some(())
}

#[cfg(test)]
mod tests;
