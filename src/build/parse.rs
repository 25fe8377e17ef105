//! A Dockerfile as values: what the parser of the `parse-dockerfile` crate found, checked and with positions.
//!
//! Nothing is expanded yet: words keep their quotes and variables. What strata does not support is an error here, so
//! before anything runs.
//!
//! # References
//! Dockerfile reference.

use std::borrow::Cow;

use parse_dockerfile::{
    Command as ParsedCommand, Flag, HealthcheckArguments, Instruction as Parsed, JsonOrStringArray,
};

use super::heredoc::{self, Masked};
use super::position::Lines;
pub(super) use super::position::Position;
use crate::error::{ErrorKind, Result};

/// The most bytes of all instructions as the history tells them: four times what a Dockerfile has. Each is shorter than
/// its source; should the end of an instruction be found too late, the texts overlap and this bound stops them.
const TEXTS_BYTES_MAX: usize = 4 * super::DOCKERFILE_BYTES_MAX;

/// The most flags of one instruction. Each `--mount` is a mount of the container, and all flags are compared with one
/// another.
const FLAGS_MAX: usize = 256;

/// A Dockerfile.
#[derive(Debug)]
pub(super) struct Dockerfile {
    /// The character that continues lines and takes the meaning of the next one.
    pub(super) escape: char,
    /// The `ARG`s before the first stage.
    pub(super) globals: Vec<Instruction>,
    pub(super) stages: Vec<Stage>,
}

/// What begins with a `FROM`.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) at: Position,
    /// What it stands on.
    pub(super) from: String,
    pub(super) platform: Option<String>,
    /// In lower case.
    pub(super) name: Option<String>,
    pub(super) steps: Vec<Instruction>,
}

/// One instruction.
#[derive(Clone, Debug)]
pub(super) struct Instruction {
    pub(super) at: Position,
    /// As it was written, on one line.
    pub(super) text: String,
    pub(super) what: What,
}

/// What an instruction says.
#[derive(Clone, Debug)]
pub(super) enum What {
    Add(Copy),
    Arg(String),
    Cmd(Command),
    Copy(Copy),
    Entrypoint(Command),
    Env(String),
    Expose(Vec<String>),
    Healthcheck { options: Vec<(String, String)>, test: Option<Command> },
    Label(String),
    Maintainer(String),
    Onbuild(String),
    Run(Run),
    Shell(Vec<String>),
    Stopsignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// `RUN`.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) command: Command,
    /// The script that a here-document alone is.
    pub(super) script: Option<String>,
    pub(super) network: Option<(Position, String)>,
    /// The values of `--mount`.
    pub(super) mounts: Vec<(Position, String)>,
}

/// A command in one of its two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Exec(Vec<String>),
    Shell(String),
}

/// `COPY` or `ADD`.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) sources: Vec<Source>,
    pub(super) target: String,
    pub(super) from: Option<String>,
    pub(super) chown: Option<String>,
    pub(super) chmod: Option<String>,
}

/// What is copied.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Path(String),
    /// A here-document.
    Text {
        name: String,
        text: String,
        expand: bool,
    },
}

/// Reads the Dockerfile `text`, which errors call `file`.
///
/// # Errors
/// `InvalidArgument` with file, line and column for what is no Dockerfile; `Unsupported` for what strata cannot do.
pub(super) fn parse(file: &str, text: &str) -> Result<Dockerfile> {
    // The parser leaves the mark out of its offsets.
    let text = text.trim_start_matches('\u{feff}');
    let escape = if has_backtick_directive(text) { '`' } else { '\\' };
    let lines = Lines::new(file, text);
    // The kernel ends each argument of a command at the first NUL: the command that ran would be another one.
    if let Some(offset) = text.find('\0') {
        return Err(lines.at(offset).wrong("a Dockerfile has no NUL bytes"));
    }
    let masked = heredoc::mask(text, escape).map_err(|unended| {
        lines.at(unended.offset).wrong(format!("the here-document {} does not end", unended.delimiter))
    })?;
    Reader { lines, text, masked, escape }.read()
}

/// Whether the directive `escape` at the top changes the escape character.
fn has_backtick_directive(text: &str) -> bool {
    let directives = text.lines().map_while(|line| line.trim().strip_prefix('#'));
    let mut values = directives.map_while(|line| line.split_once('='));
    values.any(|(name, value)| name.trim().eq_ignore_ascii_case("escape") && value.trim() == "`")
}

struct Reader<'a> {
    lines: Lines<'a>,
    text: &'a str,
    masked: Masked,
    escape: char,
}

impl Reader<'_> {
    fn at(&self, offset: usize) -> Position {
        self.lines.at(offset)
    }

    fn read(&self) -> Result<Dockerfile> {
        let parsed = parse_dockerfile::parse(&self.masked.text).map_err(|error| {
            let text = error.to_string();
            let place = format!(" at line {} column {}", error.line(), error.column());
            self.lines.place(error.line(), error.column()).wrong(text.trim_end_matches(&place))
        })?;
        let mut texts_bytes = 0;
        let mut file = Dockerfile { escape: self.escape, globals: Vec::new(), stages: Vec::new() };
        for instruction in &parsed.instructions {
            if let Parsed::From(from) = instruction {
                file.stages.push(self.stage(from)?);
                continue;
            }
            let read = self.instruction(instruction)?;
            texts_bytes += read.text.len();
            if texts_bytes > TEXTS_BYTES_MAX {
                return Err(read
                    .at
                    .wrong(format!("the instructions are longer than {TEXTS_BYTES_MAX} bytes together")));
            }
            file.stages.last_mut().map_or(&mut file.globals, |stage| &mut stage.steps).push(read);
        }
        Ok(file)
    }

    fn stage(&self, from: &parse_dockerfile::FromInstruction<'_>) -> Result<Stage> {
        let at = self.at(from.from.span.start);
        let mut flags = Flags::new(self, &from.options)?;
        let platform = flags.take("platform");
        flags.finish("FROM")?;
        let name = from.as_.as_ref().map(|(_, name)| name.value.to_lowercase());
        if let Some(name) = &name
            && !name.starts_with(|c: char| c.is_ascii_lowercase())
        {
            return Err(at.wrong(format!("{name:?} is no name for a stage: it has to begin with a letter")));
        }
        Ok(Stage { at, from: from.image.value.clone().into_owned(), platform, name, steps: Vec::new() })
    }

    fn instruction(&self, parsed: &Parsed<'_>) -> Result<Instruction> {
        let offset = keyword_start(parsed);
        let at = self.at(offset);
        let (name, what, rest) = match parsed {
            Parsed::Add(add) => {
                let copy = self.copy("ADD", &add.options, &add.src, &add.dest)?;
                ("ADD", What::Add(copy), self.until_end(offset))
            }
            Parsed::Copy(copy) => {
                let copy = self.copy("COPY", &copy.options, &copy.src, &copy.dest)?;
                ("COPY", What::Copy(copy), self.until_end(offset))
            }
            Parsed::Run(run) => {
                let (run, text) = self.run(run)?;
                ("RUN", What::Run(run), text)
            }
            Parsed::Healthcheck(check) => {
                let what = self.healthcheck(check)?;
                ("HEALTHCHECK", what, self.until_end(offset))
            }
            Parsed::Onbuild(trigger) => {
                let text = self.until_end(keyword_start(&trigger.instruction));
                if matches!(*trigger.instruction, Parsed::Onbuild(_) | Parsed::From(_) | Parsed::Maintainer(_)) {
                    return Err(at.wrong("ONBUILD takes no ONBUILD, FROM or MAINTAINER"));
                }
                // What it says is checked now, so that a child image does not fail for it.
                self.instruction(&trigger.instruction)?;
                ("ONBUILD", What::Onbuild(text.clone()), text)
            }
            simple => {
                let (name, what) = self.simple(simple, &at)?;
                (name, what, self.until_end(offset))
            }
        };
        let text = match rest.split_once(char::is_whitespace) {
            Some((keyword, rest)) if keyword.eq_ignore_ascii_case(name) => format!("{name} {}", rest.trim()),
            _ => format!("{name} {rest}"),
        };
        Ok(Instruction { at, text, what })
    }

    /// The instructions that take words and have no flags.
    fn simple(&self, parsed: &Parsed<'_>, at: &Position) -> Result<(&'static str, What)> {
        let words = |words: &[parse_dockerfile::UnescapedString<'_>]| -> Vec<String> {
            words.iter().map(|word| word.value.clone().into_owned()).collect()
        };
        let text = |string: &parse_dockerfile::UnescapedString<'_>| string.value.clone().into_owned();
        Ok(match parsed {
            Parsed::Arg(arg) => ("ARG", What::Arg(text(&arg.arguments))),
            Parsed::Cmd(cmd) => ("CMD", What::Cmd(self.command(at, &cmd.arguments)?)),
            Parsed::Entrypoint(entrypoint) => {
                ("ENTRYPOINT", What::Entrypoint(self.command(at, &entrypoint.arguments)?))
            }
            Parsed::Env(env) => ("ENV", What::Env(text(&env.arguments))),
            Parsed::Expose(expose) => ("EXPOSE", What::Expose(words(&expose.arguments))),
            Parsed::Label(label) => ("LABEL", What::Label(text(&label.arguments))),
            Parsed::Maintainer(maintainer) => ("MAINTAINER", What::Maintainer(text(&maintainer.name))),
            Parsed::Shell(shell) => ("SHELL", What::Shell(words(&shell.arguments))),
            Parsed::Stopsignal(signal) => ("STOPSIGNAL", What::Stopsignal(text(&signal.arguments))),
            Parsed::User(user) => ("USER", What::User(text(&user.arguments))),
            Parsed::Volume(volume) => (
                "VOLUME",
                What::Volume(match &volume.arguments {
                    JsonOrStringArray::Json(json) => words(&json.value),
                    JsonOrStringArray::String(strings) => words(strings),
                }),
            ),
            Parsed::Workdir(workdir) => ("WORKDIR", What::Workdir(text(&workdir.arguments))),
            _ => return Err(at.error(ErrorKind::Unsupported, "this instruction is not supported here")),
        })
    }

    /// What was written from `offset` to the end of its instruction, without here-documents, on one line.
    fn until_end(&self, offset: usize) -> String {
        let mut text = String::new();
        for line in self.text[offset..].lines() {
            // Other white space behind the escape character does not continue a line.
            let content = line.trim_matches([' ', '\t', '\r']);
            if !text.is_empty() && (content.starts_with('#') || content.is_empty()) {
                continue;
            }
            let continued = content.ends_with(self.escape);
            text.push_str(content.strip_suffix(self.escape).unwrap_or(content).trim_end());
            if !continued {
                break;
            }
            text.push(' ');
        }
        text
    }

    fn command(&self, at: &Position, command: &ParsedCommand<'_>) -> Result<Command> {
        match command {
            ParsedCommand::Exec(words) => {
                Ok(Command::Exec(words.value.iter().map(|word| word.value.clone().into_owned()).collect()))
            }
            ParsedCommand::Shell(text) => Ok(Command::Shell(self.joined(&self.text[text.span.clone()]))),
            _ => Err(at.error(ErrorKind::Unsupported, "this form of a command is not supported")),
        }
    }

    /// `text` without the line ends that are escaped, nor the comments between.
    fn joined(&self, text: &str) -> String {
        let mut joined = String::new();
        for (number, line) in text.lines().enumerate() {
            if number > 0 && (line.trim_start().starts_with('#') || line.trim().is_empty()) {
                continue;
            }
            let content = line.trim_end();
            joined.push_str(content.strip_suffix(self.escape).unwrap_or(content));
        }
        joined
    }

    /// `RUN`, and its text for the history.
    fn run(&self, run: &parse_dockerfile::RunInstruction<'_>) -> Result<(Run, String)> {
        let at = self.at(run.run.span.start);
        let mut flags = Flags::new(self, &run.options)?;
        let network = flags.take_at("network");
        let mounts = std::iter::from_fn(|| flags.take_at("mount")).collect();
        flags.finish("RUN")?;
        let mut command = self.command(&at, &run.arguments)?;
        let ParsedCommand::Shell(shell) = &run.arguments else {
            let text = self.until_end(run.run.span.start);
            return Ok((Run { command, script: None, network, mounts }, text));
        };
        let line_end = self.text[shell.span.end..].find('\n').map_or(self.text.len(), |at| shell.span.end + at);
        let documents = self.masked.documents.range(shell.span.start..=line_end).next().map(|(_, found)| found);
        let mut script = None;
        if let (Some(documents), Command::Shell(text)) = (documents, &mut command) {
            match &documents[..] {
                [only] if *text == only.marker => {
                    text.clone_from(&only.body);
                    script = only.body.starts_with("#!").then(|| only.body.clone());
                }
                all => {
                    text.push('\n');
                    text.extend(all.iter().map(heredoc::Document::source));
                }
            }
        }
        let text = match &command {
            Command::Shell(text) if text.trim().is_empty() => return Err(at.wrong("RUN needs a command")),
            Command::Shell(text) => flags_text(&run.options) + text.trim_end(),
            Command::Exec(_) => String::new(),
        };
        Ok((Run { command, script, network, mounts }, text))
    }

    fn copy(
        &self,
        name: &str,
        options: &[Flag<'_>],
        sources: &[parse_dockerfile::Source<'_>],
        target: &parse_dockerfile::UnescapedString<'_>,
    ) -> Result<Copy> {
        let mut flags = Flags::new(self, options)?;
        let (chown, chmod) = (flags.take("chown"), flags.take("chmod"));
        let from = if name == "COPY" { flags.take("from") } else { None };
        flags.finish(name)?;
        let mut read = Vec::new();
        let mut names = self.document_names(sources).into_iter();
        let unnamed = |offset| self.at(offset).wrong("the name of this here-document is not clear");
        for source in sources {
            read.push(match source {
                parse_dockerfile::Source::Path(path) if name == "ADD" && is_remote(&path.value) => {
                    let what = "ADD of a URL or a repository is not supported: fetch it in a RUN, or before the build";
                    return Err(self.at(path.span.start).error(ErrorKind::Unsupported, what));
                }
                parse_dockerfile::Source::Path(path) => Source::Path(path.value.clone().into_owned()),
                parse_dockerfile::Source::HereDoc(document) => Source::Text {
                    name: names.next().ok_or_else(|| unnamed(document.span.start))?.to_owned(),
                    text: document.value.clone().into_owned(),
                    expand: document.expand,
                },
                _ => return Err(self.at(target.span.start).error(ErrorKind::Unsupported, "an unknown kind of source")),
            });
        }
        Ok(Copy { sources: read, target: target.value.clone().into_owned(), from, chown, chmod })
    }

    /// The delimiters of the here-documents of an instruction, the names of the files that they become. They are in the
    /// line before the first document.
    fn document_names(&self, sources: &[parse_dockerfile::Source<'_>]) -> Vec<&str> {
        let first = sources.iter().find_map(|source| match source {
            parse_dockerfile::Source::HereDoc(document) => Some(document.span.start),
            _ => None,
        });
        let Some(before) = first.and_then(|first| self.text.get(..first)) else { return Vec::new() };
        let line = before.trim_end_matches('\n').lines().last().unwrap_or_default();
        let markers = line.split_whitespace().filter_map(|word| word.strip_prefix("<<"));
        markers.map(|word| word.trim_start_matches('-').trim_matches(['"', '\''])).collect()
    }

    fn healthcheck(&self, check: &parse_dockerfile::HealthcheckInstruction<'_>) -> Result<What> {
        let at = self.at(check.healthcheck.span.start);
        let mut flags = Flags::new(self, &check.options)?;
        let names = ["interval", "timeout", "start-period", "start-interval", "retries"];
        let options = names.iter().filter_map(|name| Some(((*name).to_owned(), flags.take(name)?))).collect();
        flags.finish("HEALTHCHECK")?;
        let test = match &check.arguments {
            HealthcheckArguments::Cmd { arguments, .. } => Some(self.command(&at, arguments)?),
            _ => None,
        };
        Ok(What::Healthcheck { options, test })
    }
}

fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git@", "git://", "ssh://"].iter().any(|prefix| source.starts_with(prefix))
}

fn flags_text(flags: &[Flag<'_>]) -> String {
    flags.iter().fold(String::new(), |text, flag| {
        let value = flag.value.as_ref().map(|value| format!("={}", value.value)).unwrap_or_default();
        format!("{text}--{}{value} ", flag.name.value)
    })
}

fn keyword_start(parsed: &Parsed<'_>) -> usize {
    let span = match parsed {
        Parsed::Add(instruction) => &instruction.add.span,
        Parsed::Arg(instruction) => &instruction.arg.span,
        Parsed::Cmd(instruction) => &instruction.cmd.span,
        Parsed::Copy(instruction) => &instruction.copy.span,
        Parsed::Entrypoint(instruction) => &instruction.entrypoint.span,
        Parsed::Env(instruction) => &instruction.env.span,
        Parsed::Expose(instruction) => &instruction.expose.span,
        Parsed::From(instruction) => &instruction.from.span,
        Parsed::Healthcheck(instruction) => &instruction.healthcheck.span,
        Parsed::Label(instruction) => &instruction.label.span,
        Parsed::Maintainer(instruction) => &instruction.maintainer.span,
        Parsed::Onbuild(instruction) => &instruction.onbuild.span,
        Parsed::Run(instruction) => &instruction.run.span,
        Parsed::Shell(instruction) => &instruction.shell.span,
        Parsed::Stopsignal(instruction) => &instruction.stopsignal.span,
        Parsed::User(instruction) => &instruction.user.span,
        Parsed::Volume(instruction) => &instruction.volume.span,
        Parsed::Workdir(instruction) => &instruction.workdir.span,
        _ => return 0,
    };
    span.start
}

/// The flags of an instruction; each that is known is taken.
struct Flags {
    left: Vec<(Position, String, Option<String>)>,
}

impl Flags {
    fn new(reader: &Reader<'_>, flags: &[Flag<'_>]) -> Result<Self> {
        let mut left: Vec<(Position, String, Option<String>)> = Vec::new();
        if let Some(flag) = flags.get(FLAGS_MAX) {
            return Err(reader.at(flag.span().start).wrong(format!("one instruction has at most {FLAGS_MAX} flags")));
        }
        for flag in flags {
            let (at, name) = (reader.at(flag.span().start), flag.name.value.clone().into_owned());
            if name != "mount" && left.iter().any(|(_, known, _)| *known == name) {
                return Err(at.wrong(format!("--{name} is given twice")));
            }
            left.push((at, name, flag.value.as_ref().map(|value| Cow::into_owned(value.value.clone()))));
        }
        Ok(Self { left })
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.take_at(name).map(|(_, value)| value)
    }

    /// A value, and where it stands.
    fn take_at(&mut self, name: &str) -> Option<(Position, String)> {
        let found = self.left.iter().position(|(_, known, value)| known == name && value.is_some())?;
        let (at, _, value) = self.left.remove(found);
        value.map(|value| (at, value))
    }

    /// What is left is not known.
    fn finish(self, instruction: &str) -> Result<()> {
        match self.left.into_iter().next() {
            None => Ok(()),
            Some((at, name, _)) => {
                Err(at.error(ErrorKind::Unsupported, format!("{instruction} with --{name} is not supported")))
            }
        }
    }
}

#[cfg(test)]
mod tests;
