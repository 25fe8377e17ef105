//! The instructions of a Dockerfile: continued lines joined, comments left out, here-documents separated.
//!
//! An instruction continues on the next line if its line ends with a single escape character, spaces and tabs aside.
//! Comments and empty lines in between are skipped. The lines after an instruction with here-documents, up to the end
//! marks, are the text of the documents.
//!
//! Invariants: reading takes linear time, and each byte of a joined line has a known position in the source.
//!
//! # References
//! Dockerfile reference, "Format", "Parser directives", "Here-Documents"; BuildKit, `frontend/dockerfile/parser`.

use std::str::SplitInclusive;

use super::heredoc::{self, Document};
use super::position::Lines;
use crate::error::Result;

/// The directives that a file may begin with.
const DIRECTIVES: [&str; 3] = ["syntax", "escape", "check"];

/// One instruction, its lines joined.
#[derive(Debug)]
pub(super) struct Logical {
    pub(super) text: String,
    /// The pieces that `text` is joined from: the offset of each in `text`, and its offset in the source.
    pieces: Vec<(usize, usize)>,
    pub(super) documents: Vec<Document>,
}

impl Logical {
    /// Returns the offset in the source of the byte at `offset` of the text.
    pub(super) fn source(&self, offset: usize) -> usize {
        let piece = self.pieces.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        self.pieces.get(piece).map_or(0, |(start, source)| source + offset.saturating_sub(*start))
    }

    fn push(&mut self, line: &str, source: usize) {
        self.pieces.push((self.text.len(), source));
        self.text.push_str(line);
    }
}

/// Reads the logical lines of a source.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) lines: &'a Lines<'a>,
    rest: SplitInclusive<'a, char>,
    /// The offset of `rest` in the source.
    offset: usize,
    pub(super) escape: char,
}

impl<'a> Reader<'a> {
    /// Returns a reader of `text`. The directives at the top of `text` are read now: they set the escape character.
    ///
    /// # Errors
    /// `InvalidArgument` for a directive that is given twice, or an escape character that is neither `\` nor a
    /// backtick.
    pub(super) fn new(lines: &'a Lines<'a>, text: &'a str) -> Result<Self> {
        let escape = directives(lines, text)?;
        Ok(Self { lines, rest: text.split_inclusive('\n'), offset: 0, escape })
    }

    fn line(&mut self) -> Option<(usize, &'a str)> {
        let line = self.rest.next()?;
        let start = self.offset;
        self.offset += line.len();
        Some((start, line))
    }

    /// Returns the next instruction.
    ///
    /// # Errors
    /// `InvalidArgument` for a here-document that does not end.
    pub(super) fn next(&mut self) -> Result<Option<Logical>> {
        let Some(mut logical) = self.joined() else { return Ok(None) };
        for mut document in heredoc::announced(&logical.text, self.escape) {
            let mut ended = false;
            while let Some((_, line)) = self.line() {
                let end = line.trim_end_matches(['\r', '\n']);
                if (if document.strips_tabs { end.trim_start_matches('\t') } else { end }) == document.name {
                    ended = true;
                    break;
                }
                document.body.push_str(line);
            }
            if !ended {
                let at = self.lines.at(logical.source(0));
                return Err(at.wrong(format!("the here-document {} does not end", document.name)));
            }
            logical.documents.push(document);
        }
        Ok(Some(logical))
    }

    /// Joins the lines of the next instruction.
    fn joined(&mut self) -> Option<Logical> {
        let mut logical = Logical { text: String::new(), pieces: Vec::new(), documents: Vec::new() };
        while let Some((start, line)) = self.line() {
            let content = line.trim_end_matches(['\r', '\n']);
            let bare = content.trim_start();
            if bare.is_empty() || bare.starts_with('#') {
                continue;
            }
            let (content, start) = match logical.pieces.is_empty() {
                true => (bare, start + content.len() - bare.len()),
                false => (content, start),
            };
            match self.continued(content) {
                Some(content) => logical.push(content, start),
                None => {
                    logical.push(content, start);
                    return Some(logical);
                }
            }
        }
        (!logical.text.trim().is_empty()).then_some(logical)
    }

    /// Returns `line` without the escape character at its end; `None` if the line ends the instruction.
    fn continued<'b>(&self, line: &'b str) -> Option<&'b str> {
        let content = line.trim_end_matches([' ', '\t']).strip_suffix(self.escape)?;
        (!content.ends_with(self.escape)).then_some(content)
    }
}

/// Reads the directives at the top of `text`; returns the escape character.
fn directives(lines: &Lines<'_>, text: &str) -> Result<char> {
    let (mut seen, mut escape, mut offset) = (Vec::new(), '\\', 0);
    for line in text.split_inclusive('\n') {
        let directive = line.trim_start().strip_prefix('#').and_then(|line| line.split_once('='));
        let Some((name, value)) = directive else { break };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if !DIRECTIVES.contains(&name.as_str()) || value.is_empty() {
            break;
        }
        let at = lines.at(offset);
        if seen.contains(&name) {
            return Err(at.wrong(format!("the directive {name} is given twice")));
        }
        if name == "escape" {
            escape = match value {
                "\\" => '\\',
                "`" => '`',
                _ => return Err(at.wrong(format!("the escape character is \\ or `, not {value}"))),
            };
        }
        seen.push(name);
        offset += line.len();
    }
    Ok(escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, Vec<String>)> {
        let lines = Lines::new("D", text);
        let mut reader = Reader::new(&lines, text).expect("directives");
        let mut all = Vec::new();
        while let Some(logical) = reader.next().expect("a line") {
            all.push((logical.text, logical.documents.into_iter().map(|document| document.body).collect()));
        }
        all
    }

    fn texts(text: &str) -> Vec<String> {
        read(text).into_iter().map(|(text, _)| text).collect()
    }

    #[test]
    fn continued_lines() {
        for (text, joined) in [
            ("RUN a \\\n  b", vec!["RUN a   b"]),
            ("RUN a \\ \t\n# note\n\n   # note\n  b\nRUN c", vec!["RUN a   b", "RUN c"]),
            ("RUN a \\\\\nRUN b", vec!["RUN a \\\\", "RUN b"]),
            ("  RUN a\r\n\r\nRUN b \\\r\n c\r\n", vec!["RUN a", "RUN b  c"]),
            ("# escape=`\nRUN a `\nb \\\nRUN c", vec!["RUN a b \\", "RUN c"]),
            ("# check=skip=all\n# escape = `\nRUN a`\nb", vec!["RUN ab"]),
            ("# a comment\n# escape=`\nRUN a \\\nb", vec!["RUN a b"]),
            ("RUN a \\", vec!["RUN a "]),
            ("\\\nRUN a", vec!["RUN a"]),
            ("RUN a \\\n\\\n\n b", vec!["RUN a  b"]),
            ("\n#\n", vec![]),
        ] {
            assert_eq!(texts(text), joined, "{text:?}");
        }
    }

    #[test]
    fn here_documents() {
        let text =
            "RUN cat <<A <<-'B'\n# one\n\\\nA\n\ttwo\n\tB\nCOPY <<C /x\r\n1\r\nC\r\nONBUILD RUN <<D\nD\nCMD x <<E\n";
        let documents: Vec<Vec<String>> = read(text).into_iter().map(|(_, documents)| documents).collect();
        let expected: [&[&str]; 4] = [&["# one\n\\\n", "\ttwo\n"], &["1\r\n"], &[""], &[]];
        assert_eq!(documents, expected);
    }

    #[test]
    fn every_byte_knows_its_place() {
        let text = "\n  RUN ab \\\n# note\n  cd";
        let lines = Lines::new("D", text);
        let logical = Reader::new(&lines, text).expect("a reader").next().expect("read").expect("a line");
        for (offset, byte) in logical.text.bytes().enumerate() {
            assert_eq!(text.as_bytes()[logical.source(offset)], byte, "{offset}");
        }
    }

    #[test]
    fn what_is_wrong() {
        for (text, message) in [
            ("# escape=x\n", "D:1:1: the escape character is \\ or `, not x"),
            ("# check=a\n# check=b\n", "D:2:1: the directive check is given twice"),
            ("\nRUN <<A\nx", "D:2:1: the here-document A does not end"),
        ] {
            let lines = Lines::new("D", text);
            let error = Reader::new(&lines, text).and_then(|mut reader| reader.next()).expect_err(text);
            assert_eq!(error.to_string(), message);
        }
    }
}
