//! Positions in a Dockerfile.

use std::sync::Arc;

use crate::error::{Error, ErrorKind};

/// A position: file, line and column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Name of the file. Shared, because every instruction has a position.
    file: Arc<str>,
    line: usize,
    column: usize,
}

impl Position {
    /// Returns the position of `line` and `column`, both counted from 1, in `file`.
    pub(super) fn new(file: Arc<str>, line: usize, column: usize) -> Self {
        Self { file, line, column }
    }

    /// Returns an `InvalidArgument` error about the text at the position.
    pub(super) fn wrong(&self, what: impl std::fmt::Display) -> Error {
        self.error(ErrorKind::InvalidArgument, what)
    }

    /// Returns an error of `kind` about the text at the position.
    pub(super) fn error(&self, kind: ErrorKind, what: impl std::fmt::Display) -> Error {
        Error::new(kind, format!("{self}: {what}"))
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// The lines of a text, to find positions in it without reading it from its beginning each time.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    file: Arc<str>,
    text: &'a str,
    /// The offsets at which lines begin.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// Returns the lines of `text`, which errors call `file`.
    pub(super) fn new(file: &str, text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(end, _)| end + 1)).collect();
        Self { file: file.into(), text, starts }
    }

    /// Returns the position of the byte at `offset`.
    pub(super) fn at(&self, offset: usize) -> Position {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or_default();
        let before = self.text.get(start..offset).unwrap_or_default();
        Position::new(self.file.clone(), line, before.chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        let lines = Lines::new("D", "ab\n\n\u{e9}x\n");
        let shown: Vec<String> = [0, 1, 2, 3, 4, 6, 7, 8, 99].map(|offset| lines.at(offset).to_string()).into();
        assert_eq!(shown, ["D:1:1", "D:1:2", "D:1:3", "D:2:1", "D:3:1", "D:3:2", "D:3:3", "D:4:1", "D:4:1"]);
    }
}
