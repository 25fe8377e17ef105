//! Arguments of an instruction in exec form: a JSON list of strings.
//!
//! # References
//! Dockerfile reference, "Shell and exec form"; RFC 8259.

use serde_json::Value;

/// Arguments that may be written as a JSON array.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Strings {
    /// A list of strings.
    List(Vec<String>),
    /// A list with another value than a string: always a mistake.
    Mixed,
    /// Other text.
    Text,
}

/// Reads arguments as a list of strings.
pub(super) fn strings(text: &str) -> Strings {
    let text = text.trim();
    if !text.starts_with('[') {
        return Strings::Text;
    }
    let Ok(list) = serde_json::from_str::<Vec<Value>>(text) else { return Strings::Text };
    let string = |value| if let Value::String(text) = value { Some(text) } else { None };
    list.into_iter().map(string).collect::<Option<_>>().map_or(Strings::Mixed, Strings::List)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let list = |words: &[&str]| Strings::List(words.iter().map(|word| (*word).to_owned()).collect());
        assert_eq!(strings(" [ \"a\", \"b \\\" c\" ] "), list(&["a", "b \" c"]));
        assert_eq!(strings("[]"), list(&[]));
        assert_eq!(strings("[\"a\", 1]"), Strings::Mixed);
        for text in ["a", "[a]", "['a']", "[\"a\"] b", "[", ""] {
            assert_eq!(strings(text), Strings::Text, "{text}");
        }
    }
}
