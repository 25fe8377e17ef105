//! Here-documents: the words that announce them, and their content.
//!
//! # References
//! Dockerfile reference, "Here-Documents"; BuildKit, `frontend/dockerfile/parser`.

/// The instructions that can have documents.
const INSTRUCTIONS: [&str; 3] = ["add", "copy", "run"];

/// A here-document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Document {
    /// The line that ends the document, and the name of the file that `COPY` or `ADD` makes of it.
    pub(super) name: String,
    /// True after `<<-`: the tabs at the start of lines are removed.
    pub(super) strips_tabs: bool,
    /// True if the name has no quotes: variables in the document are replaced.
    pub(super) expands: bool,
    /// The lines of the document, unchanged.
    pub(super) body: String,
}

impl Document {
    /// Returns the content of the here-document, without the tabs in front of its lines after `<<-`.
    pub(super) fn content(&self) -> String {
        if !self.strips_tabs {
            return self.body.clone();
        }
        self.body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }

    /// Reads a word such as `<<EOF`, `<<-"EOF"` or `3<<EOF`.
    pub(super) fn parse(word: &str) -> Option<Self> {
        let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
        let (strips_tabs, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, rest.trim_start()),
        };
        if rest.is_empty() || rest.contains('<') {
            return None;
        }
        let (mut name, mut quote, mut quoted) = (String::new(), None, false);
        let mut chars = rest.chars();
        while let Some(c) = chars.next() {
            match (c, quote) {
                ('\'' | '"', None) => (quote, quoted) = (Some(c), true),
                (c, Some(open)) if c == open => quote = None,
                ('\\', None | Some('"')) => name.extend(chars.next()),
                (c, None) if c.is_whitespace() => return None,
                (c, _) => name.push(c),
            }
        }
        (quote.is_none() && !name.is_empty()).then(|| Self { name, strips_tabs, expands: !quoted, body: String::new() })
    }
}

/// Returns the documents that the instruction `line` announces, with empty bodies.
pub(super) fn announced(line: &str, escape: char) -> Vec<Document> {
    if !line.contains("<<") || !can_announce(line, escape) {
        return Vec::new();
    }
    words(line).iter().filter_map(|word| Document::parse(word)).collect()
}

/// Returns whether the instruction can have documents: one of [`INSTRUCTIONS`], with arguments that are no JSON list.
fn can_announce(line: &str, escape: char) -> bool {
    let mut rest = line.trim_start();
    loop {
        let (keyword, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        rest = after.trim_start();
        if keyword.eq_ignore_ascii_case("onbuild") {
            continue;
        }
        if !INSTRUCTIONS.iter().any(|known| keyword.eq_ignore_ascii_case(known)) {
            return false;
        }
        let arguments = super::words::leading_flags(rest, escape).1;
        return !matches!(super::json::strings(&rest[arguments..]), super::json::Strings::List(_));
    }
}

/// Splits a line at white space outside of quotes; the quotes stay in the words. White space after `<<` does not end a
/// word. If a quote is not closed, the result is empty, because any `<<` may be a part of the quoted text.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            ('<', None) if chars.next_if_eq(&'<').is_some() => {
                word.push_str("<<");
                while chars.next_if(|c| matches!(c, ' ' | '\t' | '\r')).is_some() {}
                continue;
            }
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            _ => {}
        }
        word.push(c);
        if c == '\\' && quote != Some('\'') {
            word.extend(chars.next());
        }
    }
    if quote.is_some() {
        return Vec::new();
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_announces() {
        let shown = |line: &str| -> Vec<String> {
            let one = |document: &Document| {
                let Document { name, strips_tabs, expands, .. } = document;
                format!("{name}{}{}", if *strips_tabs { " strips" } else { "" }, if *expands { "" } else { " raw" })
            };
            announced(line, '\\').iter().map(one).collect()
        };
        for (line, expected) in [
            ("RUN <<EOF", vec!["EOF"]),
            ("run cat << EOF | sort", vec!["EOF"]),
            ("RUN cat <<-A 3<<'B' <<\"C\" > /x", vec!["A strips", "B raw", "C raw"]),
            ("ONBUILD COPY --chown=1 <<E /x", vec!["E"]),
            ("COPY <<\"a b\" /x", vec!["a b raw"]),
            ("RUN --mount=type=tmpfs,target=/a <<E", vec!["E"]),
            ("RUN [\"cat\", \"<<E\"]", vec![]),
            ("RUN --network=none [\"a\", \"<<E\"]", vec![]),
            ("RUN echo '<<E'", vec![]),
            ("RUN echo it's <<E", vec![]),
            ("RUN cat <<<E", vec![]),
            ("RUN cat<<E", vec![]),
            ("RUN <<", vec![]),
            ("CMD cat <<E", vec![]),
            ("RUN echo \\<<E", vec![]),
        ] {
            assert_eq!(shown(line), expected, "{line}");
        }
    }

    #[test]
    fn tabs() {
        let body = "\t\ta\n\tb\tc\n".to_owned();
        let document = Document { strips_tabs: true, body, ..Document::default() };
        assert_eq!(document.content(), "a\nb\tc\n");
    }
}
