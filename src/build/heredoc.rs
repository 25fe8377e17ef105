//! Here-documents of `RUN`.
//!
//! The parser knows them only where nothing else stands on the line. So those of `RUN` are taken out before it sees the
//! text: their bodies become comments of the same length, so that every other position stays right.
//!
//! # References
//! Dockerfile reference, "Here-Documents".

use std::collections::BTreeMap;

use super::words::split;

/// The text without here-documents of `RUN`, and these by the offset at which the line ends that they follow.
#[derive(Debug)]
pub(super) struct Masked {
    pub(super) text: String,
    pub(super) documents: BTreeMap<usize, Vec<Document>>,
}

/// A here-document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    /// How it is announced: `<<EOF`.
    pub(super) marker: String,
    /// Its lines, without the tabs in front of them if it was asked for.
    pub(super) body: String,
    /// The line that ends it.
    end: String,
}

impl Document {
    /// As a shell reads it.
    pub(super) fn source(&self) -> String {
        format!("{}{}\n", self.body, self.end)
    }
}

/// A document that does not end: the offset of the line that announces it, and its delimiter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unended {
    pub(super) offset: usize,
    pub(super) delimiter: String,
}

/// Takes the here-documents of `RUN` out of `text`.
pub(super) fn mask(text: &str, escape: char) -> Result<Masked, Unended> {
    let mut masked = Masked { text: String::with_capacity(text.len()), documents: BTreeMap::new() };
    let mut lines = text.split_inclusive('\n');
    // The instruction that is being read, from its first line on.
    let mut logical = String::new();
    while let Some(line) = lines.next() {
        let start = masked.text.len();
        let content = line.trim();
        if content.starts_with('#') || (content.is_empty() && !logical.is_empty()) {
            masked.text.push_str(line);
            continue;
        }
        logical.push_str(content.trim_end_matches(escape));
        logical.push(' ');
        if content.ends_with(escape) {
            masked.text.push_str(line);
            continue;
        }
        let is_run = logical.split_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case("run"));
        let announced: Vec<Marker> = if is_run {
            split(&logical, escape).iter().filter_map(|word| Marker::parse(word)).collect()
        } else {
            Vec::new()
        };
        logical.clear();
        if announced.is_empty() {
            masked.text.push_str(line);
            continue;
        }
        masked.text.push_str(&line.replace("<<", "xx"));
        let end = start + line.trim_end().len();
        for marker in announced {
            let unended = || Unended { offset: start, delimiter: marker.delimiter.clone() };
            let document = marker.read(&mut lines, &mut masked.text).ok_or_else(unended)?;
            masked.documents.entry(end).or_default().push(document);
        }
    }
    Ok(masked)
}

/// A word that announces a document.
struct Marker {
    word: String,
    strip: bool,
    delimiter: String,
}

impl Marker {
    fn parse(word: &str) -> Option<Self> {
        let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
        let (strip, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let unquoted = ['\'', '"'].iter().find_map(|quote| rest.strip_prefix(*quote)?.strip_suffix(*quote));
        let delimiter = unquoted.unwrap_or(rest);
        let plain = !delimiter.is_empty() && !delimiter.contains(['<', '\'', '"', '(', '$', '`']);
        plain.then(|| Self { word: word.to_owned(), strip, delimiter: delimiter.to_owned() })
    }

    /// Reads the document from `lines`, and puts comments in its place.
    fn read<'a>(&self, lines: &mut impl Iterator<Item = &'a str>, masked: &mut String) -> Option<Document> {
        let mut body = String::new();
        for line in lines {
            let shown = if self.strip { line.trim_start_matches('\t') } else { line };
            masked.extend(line.bytes().map(|byte| if byte == b'\n' { '\n' } else { '#' }));
            if shown.trim_end_matches(['\n', '\r']) == self.delimiter {
                return Some(Document { marker: self.word.clone(), body, end: self.delimiter.clone() });
            }
            body.push_str(shown);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_become_comments() {
        let text = "FROM a\nRUN cat <<A <<-'B' \\\n # note\n | sort\none\n\nA\n\ttwo é\n\tB\nCOPY <<C /x\nthree\nC\nRUN echo '<<D'\n";
        let masked = mask(text, '\\').expect("all end");
        assert_eq!(masked.text.len(), text.len());
        let expected = "FROM a\nRUN cat <<A <<-'B' \\\n # note\n | sort\n###\n\n#\n#######\n##\nCOPY <<C /x\nthree\nC\nRUN echo '<<D'\n";
        assert_eq!(masked.text, expected);
        let [(end, documents)] = masked.documents.iter().collect::<Vec<_>>()[..] else { panic!("{masked:?}") };
        assert_eq!(&text[..*end].lines().last(), &Some(" | sort"));
        assert_eq!(documents.iter().map(|document| document.body.as_str()).collect::<Vec<_>>(), ["one\n\n", "two é\n"]);
    }

    #[test]
    fn one_that_does_not_end() {
        let unended = mask("FROM a\nRUN <<EOF\nx\n", '\\').expect_err("no end");
        assert_eq!(unended, Unended { offset: 7, delimiter: "EOF".to_owned() });
    }
}
