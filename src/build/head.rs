//! The parts of an instruction: its keyword, its flags, its arguments.

use super::flags::Flags;
use super::heredoc::Document;
use super::json::{Strings, strings};
use super::lines::Logical;
use super::position::{Lines, Position};
use crate::error::Result;

/// A command in one of its two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Exec(Vec<String>),
    Shell(String),
}

/// The parts of an instruction.
pub(super) struct Head<'a> {
    pub(super) lines: &'a Lines<'a>,
    pub(super) escape: char,
    pub(super) line: &'a Logical,
    pub(super) at: Position,
    /// The keyword, in upper case.
    pub(super) keyword: String,
    /// The offset in the line of the text after the keyword.
    pub(super) rest_start: usize,
    pub(super) flags: Flags,
    /// The offset of the arguments in the line.
    pub(super) arguments_start: usize,
    /// The text after keyword and flags.
    pub(super) arguments: &'a str,
}

impl<'a> Head<'a> {
    /// Reads the instruction that begins at `start` of the line.
    pub(super) fn read(lines: &'a Lines<'a>, escape: char, line: &'a Logical, start: usize) -> Result<Self> {
        let start = start + line.text[start..].len() - line.text[start..].trim_start().len();
        let keyword = line.text[start..].split_whitespace().next().unwrap_or_default();
        let rest_start = start + keyword.len();
        let at = lines.at(line.source(start));
        let keyword = keyword.to_uppercase();
        let (flags, arguments_start) = Flags::read(lines, escape, line, rest_start)?;
        let arguments = line.text[arguments_start..].trim();
        let arguments_start =
            arguments_start + line.text[arguments_start..].len() - line.text[arguments_start..].trim_start().len();
        Ok(Self { lines, escape, line, at, keyword, rest_start, flags, arguments_start, arguments })
    }

    /// Returns the instruction as one line.
    pub(super) fn text(&self) -> String {
        format!("{} {}", self.keyword, self.line.text[self.rest_start..].trim()).trim_end().to_owned()
    }

    /// The position of the byte `offset` of the arguments.
    pub(super) fn place(&self, offset: usize) -> Position {
        self.lines.at(self.line.source(self.arguments_start + offset))
    }

    /// The arguments as one text.
    pub(super) fn one(&self) -> Result<String> {
        match self.arguments {
            "" => Err(self.at.wrong(format!("{} needs an argument", self.keyword))),
            text => Ok(text.to_owned()),
        }
    }

    /// Returns the words of the arguments, each with its offset: the strings of a JSON list, all with offset 0, or the
    /// text split at white space.
    pub(super) fn words(&self) -> Result<Vec<(usize, String)>> {
        match strings(self.arguments) {
            Strings::List(list) => Ok(list.into_iter().map(|word| (0, word)).collect()),
            Strings::Mixed => Err(self.not_strings()),
            Strings::Text => {
                let start = |word: &str| word.as_ptr() as usize - self.arguments.as_ptr() as usize;
                Ok(self.arguments.split_whitespace().map(|word| (start(word), word.to_owned())).collect())
            }
        }
    }

    pub(super) fn not_strings(&self) -> crate::Error {
        self.at.wrong(format!("{}: a list in brackets holds strings only, in double quotes", self.keyword))
    }

    /// The arguments as a command.
    pub(super) fn command(&self) -> Result<Command> {
        self.command_of(self.arguments)
    }

    pub(super) fn documents(&self) -> &'a [Document] {
        &self.line.documents
    }

    /// Returns `text` as a command.
    pub(super) fn command_of(&self, text: &str) -> Result<Command> {
        match strings(text) {
            Strings::List(list) => Ok(Command::Exec(list)),
            Strings::Mixed => Err(self.not_strings()),
            Strings::Text if text.is_empty() => Err(self.at.wrong(format!("{} needs a command", self.keyword))),
            Strings::Text => Ok(Command::Shell(text.to_owned())),
        }
    }
}
