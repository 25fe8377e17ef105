//! Patterns in the expansion of a variable: `${x#pattern}`, `${x%pattern}`, `${x/pattern/text}`.
//!
//! `*` matches any text, `?` one character; after a backslash both are literal, and so is a backslash. Brackets are
//! literal. `#` and `%` remove the shortest prefix or suffix that matches, `##` and `%%` the longest.
//!
//! # References
//! POSIX, "Pattern Matching Notation"; BuildKit, `frontend/dockerfile/shell`.

use regex::Regex;

/// The message for a mistake in a word. The caller adds the position.
pub(super) type Wrong = String;

/// The most bytes that one expanded text may have. A variable that holds another one twice doubles the length.
pub(super) const VALUE_BYTES_MAX: usize = 1 << 20;

/// The match of a pattern that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Shortest,
    Longest,
}

/// Appends `value` to `text`, which stays within `VALUE_BYTES_MAX`.
pub(super) fn append(text: &mut String, value: &str) -> Result<(), Wrong> {
    if text.len().saturating_add(value.len()) > VALUE_BYTES_MAX {
        return Err(format!("with its variables replaced, the text is longer than {VALUE_BYTES_MAX} bytes"));
    }
    text.push_str(value);
    Ok(())
}

/// Returns `value` without the prefix that `pattern` matches.
pub(super) fn without_prefix(value: &str, pattern: &str, length: Length) -> Result<String, Wrong> {
    let matched = regex(pattern, length, true)?.find(value).map_or(0, |found| found.end());
    Ok(value[matched..].to_owned())
}

/// Returns `value` without the suffix that `pattern` matches.
pub(super) fn without_suffix(value: &str, pattern: &str, length: Length) -> Result<String, Wrong> {
    // A regular expression finds the shortest match only at the beginning of a text, so the text is reversed.
    let rest = without_prefix(&reversed(value), &reversed_pattern(pattern), length)?;
    Ok(reversed(&rest))
}

/// Returns `value` with `text` in place of the first match of `pattern`, or of all.
pub(super) fn replaced(value: &str, pattern: &str, text: &str, all: bool) -> Result<String, Wrong> {
    let regex = regex(pattern, Length::Longest, false)?;
    let (mut result, mut end) = (String::new(), 0);
    for found in regex.find_iter(value).take(if all { usize::MAX } else { 1 }) {
        append(&mut result, &value[end..found.start()])?;
        append(&mut result, text)?;
        end = found.end();
    }
    append(&mut result, &value[end..])?;
    Ok(result)
}

fn reversed(text: &str) -> String {
    text.chars().rev().collect()
}

/// Returns the pattern reversed, with each backslash still before the character that it escapes.
fn reversed_pattern(pattern: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let next = if c == '\\' { chars.next() } else { None };
        parts.push([Some(c), next].into_iter().flatten().collect());
    }
    parts.into_iter().rev().collect()
}

fn regex(pattern: &str, length: Length, is_anchored: bool) -> Result<Regex, Wrong> {
    let mut text = String::from(if is_anchored { "^" } else { "" });
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if length == Length::Longest => text.push_str(".*"),
            '*' => text.push_str(".*?"),
            '?' => text.push('.'),
            // This backslash only kept the `}` or `/` after it from ending the pattern.
            '\\' if chars.peek().is_some_and(|next| "}/".contains(*next)) => {}
            '\\' => match chars.next() {
                Some(next) if "*?\\".contains(next) => text.push_str(&regex::escape(next.encode_utf8(&mut [0; 4]))),
                _ => {
                    return Err(format!(
                        "in the pattern {pattern:?} a backslash stands before *, ? or a backslash only"
                    ));
                }
            },
            c => text.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    Regex::new(&text).map_err(|_| "a pattern in ${...} is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Length::{Longest, Shortest};

    #[test]
    fn prefixes_and_suffixes() {
        for (value, pattern, length, rest) in [
            ("a/b/c", "*/", Shortest, "b/c"),
            ("a/b/c", "*/", Longest, "c"),
            ("abc", "?", Shortest, "bc"),
            ("abc", "b", Shortest, "abc"),
            ("*x", "\\*", Shortest, "x"),
            ("a.c", "a?c", Longest, ""),
            ("a+b", "a+", Shortest, "b"),
            ("\u{e9}x", "?", Shortest, "x"),
        ] {
            assert_eq!(without_prefix(value, pattern, length).as_deref(), Ok(rest), "{value} # {pattern}");
        }
        for (value, pattern, length, rest) in [
            ("1.2.3", ".*", Shortest, "1.2"),
            ("1.2.3", ".*", Longest, "1"),
            ("x\\*", "\\\\\\*", Shortest, "x"),
            ("x.tar.gz", ".gz", Shortest, "x.tar"),
            ("abc", "x", Shortest, "abc"),
        ] {
            assert_eq!(without_suffix(value, pattern, length).as_deref(), Ok(rest), "{value} % {pattern}");
        }
        assert!(without_prefix("a", "\\a", Shortest).is_err());
    }

    #[test]
    fn replacements() {
        for (value, pattern, text, all, result) in [
            ("a.b.c", ".", "-", false, "a-b.c"),
            ("a.b.c", ".", "-", true, "a-b-c"),
            ("a/b", "\\/", "$1", true, "a$1b"),
            ("abcb", "b*", "x", false, "ax"),
            ("abc", "z", "x", true, "abc"),
        ] {
            assert_eq!(replaced(value, pattern, text, all).as_deref(), Ok(result), "{value}/{pattern}/{text}");
        }
        let long = "a".repeat(1 << 19);
        assert!(replaced(&long, "a", "aaa", true).is_err());
    }
}
