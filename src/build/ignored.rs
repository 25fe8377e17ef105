//! What `.dockerignore` leaves out of a build context.
//!
//! Invariant: the last pattern that matches a path, or a directory above it, decides. Patterns are compiled into sets,
//! so that a path costs little more with 10,000 patterns than with one.
//!
//! # References
//! Dockerfile reference, "`.dockerignore` file".

use std::path::Path;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, Result};

/// The most patterns of one set. The regular expression of a set has a limit of its own (10 MiB), which 1000 patterns
/// of usual length keep.
const SET_PATTERNS_MAX: usize = 1000;

/// The longest pattern, in bytes: no path of Linux is longer.
const PATTERN_BYTES_MAX: usize = 4096;

/// The patterns of an ignore file.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    /// The last patterns first.
    sets: Vec<Set>,
    has_exceptions: bool,
}

#[derive(Debug)]
struct Set {
    globs: GlobSet,
    /// Whether each pattern leaves out what it matches; the others bring it back.
    leaves_out: Vec<bool>,
}

impl Ignored {
    /// Reads the text of an ignore file of at most `patterns_max` patterns.
    ///
    /// # Errors
    /// `InvalidArgument` for more or longer patterns, or what is no pattern.
    pub(super) fn parse(text: &str, patterns_max: usize) -> Result<Self> {
        let mut patterns = Vec::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            let Some((leaves_out, pattern)) = pattern(line) else { continue };
            if patterns.len() == patterns_max {
                return Err(Error::invalid(format!(
                    ".dockerignore has more than {patterns_max} patterns: --limit patterns=NUMBER allows more"
                )));
            }
            patterns.push((leaves_out, glob(&pattern).map_err(|error| error.context(".dockerignore"))?));
        }
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
    fn new(patterns: &[(bool, Glob)]) -> Result<Self> {
        let mut builder = GlobSetBuilder::new();
        for (_, glob) in patterns {
            builder.add(glob.clone());
        }
        let globs = builder.build().map_err(|error| {
            Error::invalid(".dockerignore: the patterns are too many for their length").with_source(error)
        })?;
        Ok(Self { globs, leaves_out: patterns.iter().map(|(leaves_out, _)| *leaves_out).collect() })
    }

    /// Returns what the last pattern says that matches the path or a directory above it.
    fn decides(&self, path: &Path) -> Option<bool> {
        let mut matching = Vec::new();
        let last = path.ancestors().filter(|above| !above.as_os_str().is_empty()).filter_map(|above| {
            self.globs.matches_into(above, &mut matching);
            matching.iter().max().copied()
        });
        self.leaves_out.get(last.max()?).copied()
    }
}

/// Returns the pattern of a line, cleaned, and whether it leaves out what it matches; `None` for other lines.
fn pattern(line: &str) -> Option<(bool, String)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
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

/// Returns a pattern of one component, or of several with `**`.
///
/// # Errors
/// `InvalidArgument` for what is no pattern, or longer than any path.
pub(super) fn glob(text: &str) -> Result<Glob> {
    if text.len() > PATTERN_BYTES_MAX {
        let start: String = text.chars().take(40).collect();
        return Err(Error::invalid(format!("the pattern {start:?}... is longer than {PATTERN_BYTES_MAX} bytes")));
    }
    // Braces mean nothing here.
    let escaped = text.replace('{', "[{]").replace('}', "[}]");
    let glob = GlobBuilder::new(&escaped).literal_separator(true).backslash_escape(true).build();
    glob.map_err(|error| Error::invalid(format!("{text:?} is no pattern")).with_source(error))
}

#[cfg(test)]
mod tests;
