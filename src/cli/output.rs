//! The output of commands: answers, tables, documents, errors.
//!
//! Invariant: nothing that comes from a store or a tree reaches a terminal or a table with a control character in it.

use std::cell::Cell;
use std::error::Error as _;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::json;

use super::FAILED;
use crate::error::{Context, Error, ErrorKind, Result};
pub(super) use crate::size::size;
use crate::store::MountedOn;
use crate::tree::Timestamp;

/// How standard output stands in error messages.
const STDOUT: &str = "to standard output";

/// The answer of a command.
#[derive(Debug)]
pub(super) struct Output {
    json: bool,
    /// Whether the reader went away.
    closed: Cell<bool>,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self { json, closed: Cell::new(false) }
    }

    /// Whether the answer is to be one JSON document.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether the reader of standard output has seen enough.
    pub fn was_closed(&self) -> bool {
        self.closed.get()
    }

    /// Prints the answer as it stands.
    pub fn text(&self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())
    }

    /// Prints the answer as it stands.
    pub fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut stream = self.stream();
        stream.write_all(bytes).and_then(|()| stream.flush()).at("write", STDOUT)
    }

    /// Prints the one document.
    pub fn document(&self, document: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(document)
            .map_err(|error| Error::new(ErrorKind::Io, "writing JSON").with_source(error))?;
        self.bytes((shown_json(&text) + "\n").as_bytes())
    }

    /// Prints `document` if JSON was asked for, else `text`.
    pub fn either(&self, document: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if self.json { self.document(document) } else { self.text(&text()) }
    }

    /// Standard output, for answers that are too large to hold.
    pub fn stream(&self) -> Stream<'_> {
        Stream { closed: &self.closed, stdout: io::stdout().lock() }
    }
}

/// Standard output; remembers whether its reader went away.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    closed: &'a Cell<bool>,
    stdout: io::StdoutLock<'static>,
}

impl Stream<'_> {
    fn noting<T>(&self, answer: io::Result<T>) -> io::Result<T> {
        answer.inspect_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                self.closed.set(true);
            }
        })
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let answer = self.stdout.write(bytes);
        self.noting(answer)
    }

    fn flush(&mut self) -> io::Result<()> {
        let answer = self.stdout.flush();
        self.noting(answer)
    }
}

/// Prints each failure to standard error: one line, or one JSON object; with `verbose`, each cause on a line of its
/// own.
pub(super) fn report(errors: &[Error], json: bool, verbose: bool) -> ExitCode {
    let mut stderr = io::stderr().lock();
    for error in errors {
        let text = if json {
            json!({"error": {"kind": error.kind().as_str(), "message": links(error).join(": "), "chain": links(error)}})
                .to_string()
        } else if verbose {
            format!("strata: {}", links(error).iter().map(|link| shown(link)).collect::<Vec<_>>().join("\n  because: "))
        } else {
            format!("strata: {}", shown(&links(error).join(": ")))
        };
        // There is nowhere left to say that this failed.
        let _ = writeln!(stderr, "{text}");
    }
    ExitCode::from(FAILED)
}

/// Prints a mistake in the arguments as the JSON object that other failures are.
pub(super) fn report_usage(message: &str) {
    let error = json!({"error": {"kind": "usage", "message": message, "chain": [message]}});
    let _ = writeln!(io::stderr(), "{error}");
}

/// The error and its causes, outermost first, with what a user of the command line does about a mount.
fn links(error: &Error) -> Vec<String> {
    let mut links = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        links.push(match cause.downcast_ref::<MountedOn>() {
            Some(MountedOn(target)) => format!("{cause}; strata umount {} first", target.display()),
            None => cause.to_string(),
        });
        next = cause.source();
    }
    links
}

/// Returns `text` with its control characters escaped: it stays one line, and can neither steer a terminal nor change
/// the order in which its letters are shown.
pub(super) fn shown(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if c.is_control() || is_deceptive(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
        shown
    })
}

/// Returns the JSON `text` with the characters that [`shown`] escapes as `\u` escapes. It parses to the same value:
/// outside of strings JSON has none of these characters but line ends, which stay.
fn shown_json(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if c != '\n' && (c.is_control() || is_deceptive(c)) {
            let mut units = [0; 2];
            shown.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            shown.push(c);
        }
        shown
    })
}

/// Whether `c` hides or reorders the text around it: marks, embeddings, overrides and isolates of the bidirectional
/// algorithm, line and paragraph separators, zero-width characters, tags.
///
/// # References
/// Unicode Standard Annex 9, section 2; Unicode Technical Report 36, section 3.
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Columns under headings, or nothing at all without rows.
pub(super) fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| shown(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

/// `1 image`, `2 images`.
pub(super) fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// `name: value` lines, the values aligned.
pub(super) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    fields.iter().fold(String::new(), |mut text, (name, value)| {
        let name = format!("{name}:");
        let _ = writeln!(text, "{name:width$}{}", shown(value));
        text
    })
}

/// The moment in RFC 3339, to the nanosecond; in seconds if it is out of that form's range.
pub(super) fn time(time: Timestamp) -> String {
    moment(time).map_or_else(|| format!("{}s", time.seconds), |moment| moment.to_string())
}

/// The moment in RFC 3339, in whole seconds.
pub(super) fn time_short(time: Timestamp) -> String {
    self::time(Timestamp { nanos: 0, ..time })
}

fn moment(time: Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(time.seconds, i32::try_from(time.nanos).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind: C0, DEL, C1, bidirectional marks and overrides, separators, zero width, tags.
    const HOSTILE: &str = "\0\u{1b}\u{7f}\u{9b}\u{61c}\u{200e}\u{202e}\u{2066}\u{2028}\u{200b}\u{feff}\u{e0041}";

    #[test]
    fn hostile_characters_are_escaped() {
        assert!(shown(HOSTILE).is_ascii(), "{}", shown(HOSTILE));
        assert_eq!(shown("a\u{202e}b\u{9b}é日"), "a\\u{202e}b\\u{9b}é日");
    }

    #[test]
    fn json_shows_escapes_and_means_the_same() {
        let value = json!({"name": HOSTILE, HOSTILE: ["é"]});
        let text = shown_json(&serde_json::to_string_pretty(&value).expect("JSON"));
        assert!(text.replace('é', "").chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), value);
    }

    #[test]
    fn times() {
        let at = |seconds, nanos| time(Timestamp { seconds, nanos });
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(1_700_000_000, 5), "2023-11-14T22:13:20.000000005Z");
        assert_eq!(at(-1, 500_000_000), "1969-12-31T23:59:59.5Z");
        assert_eq!(at(i64::MAX, 0), "9223372036854775807s");
        assert_eq!(time_short(Timestamp { seconds: 0, nanos: 5 }), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn tables_are_aligned_and_safe() {
        let rows = vec![vec!["a".into(), "\x1b[31mred".into()], vec!["longer".into(), "b".into()]];
        assert_eq!(table(&["KEY", "KIND"], rows), "KEY     KIND\na       \\u{1b}[31mred\nlonger  b\n");
        assert_eq!(table(&["KEY"], vec![]), "");
    }

    #[test]
    fn fields_are_aligned() {
        assert_eq!(fields(&[("name", "a\rb".into()), ("parents", "c".into())]), "name:    a\\rb\nparents: c\n");
    }
}
