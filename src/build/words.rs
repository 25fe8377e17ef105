//! Words of a Dockerfile: quotes, escapes, variables.
//!
//! In single quotes every character is literal. In double quotes the escape character makes `"`, `$` and itself
//! literal, and stays before other characters. Outside of quotes the escape character makes any next character literal.
//!
//! `$x` and `${x}` are values; a variable that is not set is empty. `${x:-word}` and `${x-word}` have a default,
//! `${x:+word}` and `${x+word}` an alternative, `${x:?word}` and `${x?word}` an error. With the colon, an empty value
//! counts as not set. `${x#pattern}` and `${x%pattern}` remove a prefix or a suffix, `${x/pattern/text}` replaces
//! (`patterns.rs`). Words in braces are expanded, too.
//!
//! # References
//! Dockerfile reference, "Environment replacement", "Escape".

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

use super::patterns::{self, Length, Wrong, append};

/// Variables by name.
pub(super) type Variables = BTreeMap<String, String>;

/// Finds the values of variables.
pub(super) trait Values {
    /// Returns the value of `name`, if it has one.
    fn value(&self, name: &str) -> Option<&str>;

    /// Counts `bytes` of a value that is compared with a pattern, against a limit of the build.
    ///
    /// # Errors
    /// The message, if the limit is reached.
    fn matched(&self, bytes: usize) -> Result<(), Wrong> {
        let _ = bytes;
        Ok(())
    }
}

impl Values for Variables {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// Two sets of values: the second is asked for the names that the first lacks.
pub(super) struct Over<'a>(pub(super) &'a dyn Values, pub(super) &'a dyn Values);

impl Values for Over<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.value(name).or_else(|| self.1.value(name))
    }

    fn matched(&self, bytes: usize) -> Result<(), Wrong> {
        self.0.matched(bytes).and_then(|()| self.1.matched(bytes))
    }
}

/// The deepest nesting of `${x:-${y:-...}}`. The reader recurses once a level, so the bound keeps the stack small.
const DEPTH_MAX: usize = 64;

/// Returns `text` with quotes removed and variables replaced.
pub(super) fn expand(text: &str, escape: char, variables: &dyn Values) -> Result<String, Wrong> {
    Reader { rest: text.chars().peekable(), escape, variables, depth: 0 }.until(None, false)
}

/// Returns the text of a here-document with its variables replaced. Quotes are literal. A backslash is removed, and the
/// character after it is literal.
pub(super) fn expand_document(text: &str, variables: &dyn Values) -> Result<String, Wrong> {
    let mut reader = Reader { rest: text.chars().peekable(), escape: '\\', variables, depth: 0 };
    let mut expanded = String::new();
    while let Some(c) = reader.rest.next() {
        match c {
            '$' => append(&mut expanded, &reader.variable()?)?,
            '\\' => expanded.extend(reader.rest.next()),
            c => expanded.push(c),
        }
    }
    Ok(expanded)
}

/// Splits `text` at white space outside of quotes; the words keep their quotes and escapes.
pub(super) fn split(text: &str, escape: char) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
                continue;
            }
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        word.push(c);
        if c == escape && quote != Some('\'') {
            word.extend(chars.next());
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// Returns the words at the start of `text` that begin with `--`, each with its offset and without its quotes, and the
/// offset of the rest. A word `--` ends the flags.
pub(super) fn leading_flags(text: &str, escape: char) -> (Vec<(usize, String)>, usize) {
    let mut flags = Vec::new();
    let mut chars = text.char_indices().peekable();
    loop {
        while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        let start = chars.peek().map_or(text.len(), |(offset, _)| *offset);
        if !text[start..].starts_with("--") {
            return (flags, start);
        }
        let (mut word, mut quote) = (String::new(), None);
        while let Some((_, c)) = chars.next_if(|(_, c)| quote.is_some() || !c.is_whitespace()) {
            match (c, quote) {
                ('\'' | '"', None) => quote = Some(c),
                (c, Some(open)) if c == open => quote = None,
                (c, _) if c == escape => word.extend(chars.next().map(|(_, c)| c)),
                (c, _) => word.push(c),
            }
        }
        if word == "--" {
            return (flags, chars.peek().map_or(text.len(), |(offset, _)| *offset));
        }
        flags.push((start, word));
    }
}

/// Splits `NAME=VALUE` words into names and values, which are not expanded yet. If the first word has no `=`, it is the
/// name, and the rest of `text` is the value.
pub(super) fn assignments(text: &str, escape: char) -> Result<Vec<(String, String)>, Wrong> {
    let words = split(text, escape);
    let Some(first) = words.first() else { return Err("a NAME=VALUE is missing".to_owned()) };
    if !first.contains('=') {
        let rest = text.trim_start()[first.len()..].trim();
        if rest.is_empty() {
            return Err(format!("{first:?} has no value: write {first}=VALUE"));
        }
        return Ok(vec![(first.clone(), rest.to_owned())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{word:?} should be NAME=VALUE")),
    };
    words.iter().map(pair).collect()
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    escape: char,
    variables: &'a dyn Values,
    /// Number of open braces.
    depth: usize,
}

impl Reader<'_> {
    /// Reads and expands up to `end`, which is consumed, or to the end of the text. In a `pattern` the escape
    /// characters stay, because `patterns.rs` interprets them.
    fn until(&mut self, end: Option<char>, pattern: bool) -> Result<String, Wrong> {
        let mut text = String::new();
        while let Some(c) = self.rest.next() {
            match c {
                c if Some(c) == end => return Ok(text),
                '\'' => self.single_quoted(&mut text)?,
                '"' => self.double_quoted(&mut text)?,
                '$' => append(&mut text, &self.variable()?)?,
                c if c == self.escape => text.extend(pattern.then_some(c).into_iter().chain(self.rest.next())),
                c => text.push(c),
            }
        }
        match end {
            None => Ok(text),
            Some(end) => Err(format!("{end:?} is missing")),
        }
    }

    fn single_quoted(&mut self, text: &mut String) -> Result<(), Wrong> {
        loop {
            match self.rest.next() {
                Some('\'') => return Ok(()),
                Some(c) => text.push(c),
                None => return Err("a single quote is not closed".to_owned()),
            }
        }
    }

    fn double_quoted(&mut self, text: &mut String) -> Result<(), Wrong> {
        loop {
            match self.rest.next() {
                Some('"') => return Ok(()),
                Some('$') => append(text, &self.variable()?)?,
                Some(c) if c == self.escape => match self.rest.next() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => text.push(next),
                    next => {
                        text.push(c);
                        text.extend(next);
                    }
                },
                Some(c) => text.push(c),
                None => return Err("a double quote is not closed".to_owned()),
            }
        }
    }

    /// Reads the variable after a `$`, and returns its value.
    fn variable(&mut self) -> Result<String, Wrong> {
        if self.rest.next_if_eq(&'{').is_none() {
            let name = self.name();
            return Ok(if name.is_empty() { "$".to_owned() } else { self.value(&name).unwrap_or_default() });
        }
        let name = self.name();
        if name.is_empty() {
            return Err("${ needs the name of a variable".to_owned());
        }
        let value = self.value(&name);
        match self.rest.next() {
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => match self.rest.next() {
                Some(operator @ ('-' | '+' | '?')) => {
                    self.alternative(&name, value.filter(|value| !value.is_empty()), operator)
                }
                other => Err(unknown(&name, ":", other)),
            },
            Some(operator @ ('-' | '+' | '?')) => self.alternative(&name, value, operator),
            Some(operator @ ('#' | '%')) => self.trimmed(&value.unwrap_or_default(), operator),
            Some('/') => self.replaced(&value.unwrap_or_default()),
            other => Err(unknown(&name, "", other)),
        }
    }

    /// Reads the rest of `${x-word}`, `${x+word}` or `${x?word}`, after the operator.
    fn alternative(&mut self, name: &str, value: Option<String>, operator: char) -> Result<String, Wrong> {
        let word = self.braced('}', false)?;
        match (operator, value) {
            ('-', value) => Ok(value.unwrap_or(word)),
            ('+', value) => Ok(value.map(|_| word).unwrap_or_default()),
            (_, Some(value)) => Ok(value),
            (_, None) if word.is_empty() => Err(format!("the variable {name} has to be set")),
            (_, None) => Err(format!("the variable {name}: {word}")),
        }
    }

    /// Reads the rest of `${x#pattern}`, `${x##pattern}` or the same with `%`, after the first operator character.
    fn trimmed(&mut self, value: &str, operator: char) -> Result<String, Wrong> {
        let length = if self.rest.next_if_eq(&operator).is_some() { Length::Longest } else { Length::Shortest };
        let pattern = self.braced('}', true)?;
        self.variables.matched(value.len())?;
        match operator {
            '#' => patterns::without_prefix(value, &pattern, length),
            _ => patterns::without_suffix(value, &pattern, length),
        }
    }

    /// Reads the rest of `${x/pattern/text}` or `${x//pattern/text}`, after the first slash.
    fn replaced(&mut self, value: &str) -> Result<String, Wrong> {
        let all = self.rest.next_if_eq(&'/').is_some();
        let pattern = self.braced('/', true)?;
        let text = self.braced('}', true)?;
        self.variables.matched(value.len())?;
        patterns::replaced(value, &pattern, &text, all)
    }

    /// Reads a word in braces, and the character `end` after it.
    fn braced(&mut self, end: char, pattern: bool) -> Result<String, Wrong> {
        if self.depth == DEPTH_MAX {
            return Err(format!("${{...}} is nested deeper than {DEPTH_MAX} levels"));
        }
        self.depth += 1;
        let word = self.until(Some(end), pattern);
        self.depth -= 1;
        word
    }

    /// Reads the longest name: letters, digits and underscores; or digits only; or one special parameter of a shell.
    fn name(&mut self) -> String {
        if let Some(special) = self.rest.next_if(|c| "@*#?-$!".contains(*c)) {
            return special.to_string();
        }
        let mut name = String::new();
        while let Some(c) = self.rest.next_if(|c| {
            let is_number = name.starts_with(|first: char| first.is_ascii_digit());
            c.is_ascii_digit() || (!is_number && (c.is_alphabetic() || *c == '_'))
        }) {
            name.push(c);
        }
        name
    }

    fn value(&self, name: &str) -> Option<String> {
        self.variables.value(name).map(str::to_owned)
    }
}

/// Returns the error for text after a name in braces that is no operator.
fn unknown(name: &str, colon: &str, found: Option<char>) -> Wrong {
    match found {
        None => format!("the brace of ${{{name} is not closed"),
        Some(found) => {
            format!("{:?} in ${{{name}...}} means nothing: there are -, +, ?, #, % and /", format!("{colon}{found}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::patterns::VALUE_BYTES_MAX;

    fn variables() -> Variables {
        [("x", "1"), ("empty", ""), ("path", "a b"), ("v", "1.2.3")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn expansion() {
        for (text, meaning) in [
            ("plain", "plain"),
            ("$x-$x", "1-1"),
            ("${x}y $xy", "1y "),
            ("'$x' \"$x\"", "$x 1"),
            (r"\$x \\ \a", r"$x \ a"),
            (r#""\$x \" \\ \a""#, r#"$x " \ \a"#),
            ("${none:-d} ${empty:-d} ${empty-d} ${x:-d}", "d d  1"),
            ("${none:+a} ${empty:+a} ${empty+a} ${x:+a}", "  a a"),
            ("${none:-${x}${none:-deep}}", "1deep"),
            ("${none:-'a}b'}", "a}b"),
            ("$ $- a$", "$  a$"),
            ("${v%.*}/${v%%.*}/${v#*.}/${v##*.}", "1.2/1/2.3/3"),
            ("${v/./-} ${v//./-} ${none/a/b}", "1-2.3 1-2-3 "),
            ("${v%${none:-.3}}", "1.2"),
            ("${v%\".3\"} ${v//./}", "1.2 123"),
            ("$path", "a b"),
            ("${x:?no}", "1"),
            ("a\\", "a"),
        ] {
            assert_eq!(expand(text, '\\', &variables()).as_deref(), Ok(meaning), "{text}");
        }
        assert_eq!(expand("`$x \\x", '`', &variables()).as_deref(), Ok("$x \\x"));
    }

    #[test]
    fn documents() {
        let text = "it's \"$x\" \\$x \\\\ \\n ${none:-'d'}\n";
        assert_eq!(expand_document(text, &variables()).as_deref(), Ok("it's \"1\" $x \\ n d\n"));
    }

    /// A nesting of 100,000 levels overflowed the stack.
    #[test]
    fn nested_braces_are_bounded() {
        let nested = |levels: usize| "${none:-".repeat(levels) + "x" + &"}".repeat(levels);
        assert_eq!(expand(&nested(DEPTH_MAX), '\\', &variables()).as_deref(), Ok("x"));
        for levels in [DEPTH_MAX + 1, 100_000] {
            let wrong = expand(&nested(levels), '\\', &variables()).expect_err("too deep");
            assert_eq!(wrong, "${...} is nested deeper than 64 levels");
        }
    }

    /// Each form of a text that repeats a long value.
    #[test]
    fn expanded_texts_are_bounded() {
        let long: Variables = [("x".to_owned(), "v".repeat(VALUE_BYTES_MAX / 2))].into();
        assert_eq!(expand("$x$x", '\\', &long).map(|text| text.len()), Ok(VALUE_BYTES_MAX));
        for text in ["$x$x$x", "\"$x$x$x\"", "${none:-$x$x$x}", "$x${x}\"$x\""] {
            assert!(expand(text, '\\', &long).is_err_and(|wrong| wrong.contains("longer than")), "{text}");
        }
        assert!(expand_document("$x\n$x\n", &long).is_err());
    }

    #[test]
    fn what_means_nothing() {
        for text in [
            "'a",
            "\"a",
            "${",
            "${}",
            "${x",
            "${x:-a",
            "${x:#a}",
            "${x/a}",
            "${x^a}",
            "${x#\\a}",
            "${none?}",
            "${empty:?why}",
        ] {
            assert!(expand(text, '\\', &variables()).is_err(), "{text}");
        }
        assert_eq!(expand("${empty:?why}", '\\', &variables()), Err("the variable empty: why".to_owned()));
    }

    #[test]
    fn words() {
        assert_eq!(split(r#" a "b c"  d\ e 'f g'h "#, '\\'), ["a", "\"b c\"", r"d\ e", "'f g'h"]);
        assert_eq!(split("", '\\'), Vec::<String>::new());
    }

    #[test]
    fn both_forms_of_assignments() {
        let pairs = |text| assignments(text, '\\');
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(pairs("a=1 b=\"2 3\" c="), Ok(owned(&[("a", "1"), ("b", "\"2 3\""), ("c", "")])));
        assert_eq!(pairs("a b c=d"), Ok(owned(&[("a", "b c=d")])));
        for wrong in ["", "a", "a=1 b", "=1"] {
            assert!(pairs(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn flags_in_front() {
        let flags = |text: &str| {
            let (words, end) = leading_flags(text, '\\');
            (words.into_iter().map(|(_, word)| word).collect::<Vec<_>>(), text[end..].to_owned())
        };
        for (text, words, rest) in [
            ("--a=b  --c d --e", vec!["--a=b", "--c"], "d --e"),
            ("--a='b c'\"d\" x", vec!["--a=b cd"], "x"),
            ("--a=b\\ c x", vec!["--a=b c"], "x"),
            ("--a -- --b", vec!["--a"], " --b"),
            ("-a", vec![], "-a"),
            ("--a", vec!["--a"], ""),
            ("", vec![], ""),
        ] {
            assert_eq!(flags(text), (words.into_iter().map(str::to_owned).collect(), rest.to_owned()), "{text}");
        }
    }
}
