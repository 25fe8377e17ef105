//! Words of a Dockerfile: quotes, escapes, variables.
//!
//! Single quotes keep everything; double quotes keep spaces, and in them the escape character works before `"`, `$` and
//! itself; elsewhere it keeps the next character as it is. `$x` and `${x}` are values, `${x:-word}` and `${x-word}`
//! have a default, `${x:+word}` and `${x+word}` an alternative, `${x:?word}` and `${x?word}` an error; the colon takes
//! an empty value for none. Words in braces are expanded in turn. A variable that is not set is empty.
//!
//! # References
//! Dockerfile reference, "Environment replacement", "Escape".

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

/// Variables by name.
pub(super) type Variables = BTreeMap<String, String>;

/// Finds the values of variables.
pub(super) trait Values {
    /// Returns the value of `name`, if it has one.
    fn value(&self, name: &str) -> Option<&str>;
}

impl Values for Variables {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// Values over other values: the first that knows a name decides.
pub(super) struct Over<'a>(pub(super) &'a dyn Values, pub(super) &'a dyn Values);

impl Values for Over<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.value(name).or_else(|| self.1.value(name))
    }
}

/// Why a word means nothing.
pub(super) type Wrong = String;

/// The deepest nesting of `${x:-${y:-...}}`. The reader recurses once a level, so the bound keeps the stack small.
const DEPTH_MAX: usize = 64;

/// The most bytes that one expanded text may have. Variables that repeat one another double with each line.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// What `text` means, quotes removed and variables replaced.
pub(super) fn expand(text: &str, escape: char, variables: &dyn Values) -> Result<String, Wrong> {
    Reader { rest: text.chars().peekable(), escape, variables, depth: 0 }.until(None)
}

/// The lines of a here-document with their variables replaced: as in a shell's, quotes mean nothing, and a backslash
/// works only before `$` and itself.
pub(super) fn expand_document(text: &str, variables: &dyn Values) -> Result<String, Wrong> {
    let mut reader = Reader { rest: text.chars().peekable(), escape: '\\', variables, depth: 0 };
    let mut expanded = String::new();
    while let Some(c) = reader.rest.next() {
        match c {
            '$' => append(&mut expanded, &reader.variable()?)?,
            '\\' => expanded.push(reader.rest.next_if(|next| matches!(next, '$' | '\\')).unwrap_or('\\')),
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

/// Splits `NAME=VALUE` words, or `NAME REST` where the first word has no `=`, into names and values that are not
/// expanded yet.
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

/// Appends `value` to `text`, which stays within `VALUE_BYTES_MAX`.
fn append(text: &mut String, value: &str) -> Result<(), Wrong> {
    if text.len().saturating_add(value.len()) > VALUE_BYTES_MAX {
        return Err(format!("with its variables replaced, the text is longer than {VALUE_BYTES_MAX} bytes"));
    }
    text.push_str(value);
    Ok(())
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    escape: char,
    variables: &'a dyn Values,
    /// How many braces are open.
    depth: usize,
}

impl Reader<'_> {
    /// Reads up to `end`, which is taken, or to the end of the text.
    fn until(&mut self, end: Option<char>) -> Result<String, Wrong> {
        let mut text = String::new();
        while let Some(c) = self.rest.next() {
            match c {
                c if Some(c) == end => return Ok(text),
                '\'' => self.single_quoted(&mut text)?,
                '"' => self.double_quoted(&mut text)?,
                '$' => append(&mut text, &self.variable()?)?,
                c if c == self.escape => text.extend(self.rest.next()),
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

    /// What stands behind a `$`.
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
        let (value, operator) = match self.rest.next() {
            Some('}') => return Ok(value.unwrap_or_default()),
            Some(':') => (value.filter(|value| !value.is_empty()), self.rest.next()),
            operator => (value, operator),
        };
        let word = match operator {
            Some('-' | '+' | '?') => self.braced()?,
            Some(other) => return Err(format!("{other:?} in ${{{name}...}} is not supported: -, + and ? are")),
            None => return Err(format!("the brace of ${{{name} is not closed")),
        };
        match (operator, value) {
            (Some('-'), value) => Ok(value.unwrap_or(word)),
            (Some('+'), value) => Ok(value.map(|_| word).unwrap_or_default()),
            (_, Some(value)) => Ok(value),
            (_, None) if word.is_empty() => Err(format!("the variable {name} has to be set")),
            (_, None) => Err(format!("the variable {name}: {word}")),
        }
    }

    /// Reads the word of a `${x:-word}`, with the brace that ends it.
    fn braced(&mut self) -> Result<String, Wrong> {
        if self.depth == DEPTH_MAX {
            return Err(format!("${{...}} is nested deeper than {DEPTH_MAX} levels"));
        }
        self.depth += 1;
        let word = self.until(Some('}'));
        self.depth -= 1;
        word
    }

    /// The longest name that comes next: letters, digits and underscores, or one digit.
    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
            if name.len() == 1 && c.is_ascii_digit() {
                break;
            }
        }
        name
    }

    fn value(&self, name: &str) -> Option<String> {
        self.variables.value(name).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        [("x", "1"), ("empty", ""), ("path", "a b")].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
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
            ("$ $- a$", "$ $- a$"),
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
        assert_eq!(expand_document(text, &variables()).as_deref(), Ok("it's \"1\" $x \\ \\n d\n"));
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
        for text in ["'a", "\"a", "${", "${}", "${x", "${x:-a", "${x#a}", "${x/a/b}", "${none?}", "${empty:?why}"] {
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
}
