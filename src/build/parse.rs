//! Reads a Dockerfile into values, each with its position.
//!
//! Words keep their quotes and variables; `plan.rs` expands them. An instruction or a flag that strata does not support
//! is an error here, before anything runs.
//!
//! # References
//! Dockerfile reference; BuildKit, `frontend/dockerfile/{parser,instructions}`, where the reference leaves a case open.

use super::arguments;
pub(super) use super::arguments::Source;
pub(super) use super::head::Command;
use super::head::Head;
use super::heredoc::Document;
use super::json::{Strings, strings};
use super::lines::Reader;
use super::position::Lines;
pub(super) use super::position::Position;
use crate::error::{ErrorKind, Result};

/// A Dockerfile.
#[derive(Debug)]
pub(super) struct Dockerfile {
    /// The escape character: it continues a line, and makes the next character literal.
    pub(super) escape: char,
    /// The `ARG`s before the first stage.
    pub(super) globals: Vec<Instruction>,
    pub(super) stages: Vec<Stage>,
}

/// A stage, which begins with a `FROM`.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) at: Position,
    /// The image or the earlier stage that the stage begins with.
    pub(super) from: String,
    pub(super) platform: Option<String>,
    /// The name after `AS`, in lower case.
    pub(super) name: Option<String>,
    pub(super) steps: Vec<Instruction>,
}

/// One instruction.
#[derive(Clone, Debug)]
pub(super) struct Instruction {
    pub(super) at: Position,
    /// The instruction as it was written, its lines joined.
    pub(super) text: String,
    pub(super) what: What,
}

/// The content of an instruction.
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
    /// The here-document, if it is the whole command and begins with `#!`.
    pub(super) script: Option<String>,
    pub(super) network: Option<(Position, String)>,
    pub(super) security: Option<(Position, String)>,
    /// The values of `--mount`.
    pub(super) mounts: Vec<(Position, String)>,
}

/// `COPY` or `ADD`.
#[derive(Clone, Debug, Default)]
pub(super) struct Copy {
    pub(super) sources: Vec<Source>,
    pub(super) target: String,
    pub(super) from: Option<String>,
    pub(super) chown: Option<String>,
    pub(super) chmod: Option<String>,
    /// `--link`: the copy does not depend on the files of the layers below.
    pub(super) link: bool,
    /// `--parents`: the directories above a source are copied, too.
    pub(super) parents: bool,
    /// `--exclude`: patterns of files that are not copied.
    pub(super) excludes: Vec<String>,
    /// `--checksum`: the expected digest of the file behind a URL.
    pub(super) checksum: Option<String>,
    pub(super) keep_git_dir: Option<bool>,
    /// `--unpack`. The default: `ADD` unpacks archives of the build context, and nothing else is unpacked.
    pub(super) unpack: Option<bool>,
}

/// Reads the Dockerfile `text`, which errors call `file`.
///
/// # Errors
/// `InvalidArgument`, with file, line and column, for a mistake; `Unsupported` for a feature that strata lacks.
pub(super) fn parse(file: &str, text: &str) -> Result<Dockerfile> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = Lines::new(file, text);
    let mut reader = open(&lines, text)?;
    let mut file = Dockerfile { escape: reader.escape, globals: Vec::new(), stages: Vec::new() };
    while let Some(line) = reader.next()? {
        let head = Head::read(&lines, reader.escape, &line, 0)?;
        if head.keyword == "FROM" {
            file.stages.push(stage(head)?);
            continue;
        }
        let instruction = instruction(head)?;
        match (file.stages.last_mut(), &instruction.what) {
            (Some(stage), _) => stage.steps.push(instruction),
            (None, What::Arg(_)) => file.globals.push(instruction),
            (None, _) => {
                return Err(instruction.at.wrong("a Dockerfile begins with FROM; only ARG may come before it"));
            }
        }
    }
    if file.stages.is_empty() {
        return Err(lines.at(0).wrong("there is no FROM: a Dockerfile needs one"));
    }
    Ok(file)
}

/// Reads `text`, an `ONBUILD` instruction of a base image; errors call it `name`.
///
/// # Errors
/// Those of [`parse`].
pub(super) fn parse_trigger(name: &str, text: &str) -> Result<Instruction> {
    let lines = Lines::new(name, text);
    let mut reader = open(&lines, text)?;
    let found = match reader.next()? {
        Some(line) => instruction(Head::read(&lines, reader.escape, &line, 0)?)?,
        None => return Err(lines.at(0).wrong("it is empty")),
    };
    match reader.next()? {
        None => Ok(found),
        Some(line) => Err(lines.at(line.source(0)).wrong("there is more than one instruction")),
    }
}

fn open<'a>(lines: &'a Lines<'a>, text: &'a str) -> Result<Reader<'a>> {
    // The kernel cuts an argument at the first NUL byte: another command than the written one would run.
    match text.find('\0') {
        Some(offset) => Err(lines.at(offset).wrong("a Dockerfile has no NUL bytes")),
        None => Reader::new(lines, text),
    }
}

fn stage(mut head: Head<'_>) -> Result<Stage> {
    let platform = head.flags.take("platform")?.map(|(_, platform)| platform);
    let words: Vec<&str> = head.arguments.split_whitespace().collect();
    let (from, name) = match words[..] {
        [from] => (from, None),
        [from, word, name] if word.eq_ignore_ascii_case("as") => (from, Some(name.to_lowercase())),
        _ => return Err(head.at.wrong("FROM takes an image, and AS with a name: FROM IMAGE [AS NAME]")),
    };
    if let Some(name) = &name
        && !is_stage_name(name)
    {
        let rule = "it begins with a letter, and has letters, digits, \"-\", \"_\" and \".\" only";
        return Err(head.at.wrong(format!("{name:?} is no name for a stage: {rule}")));
    }
    head.flags.finish("FROM")?;
    Ok(Stage { at: head.at, from: from.to_owned(), platform, name, steps: Vec::new() })
}

fn is_stage_name(name: &str) -> bool {
    let is_known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_known)
}

fn instruction(mut head: Head<'_>) -> Result<Instruction> {
    let mut text = head.text();
    let what = match head.keyword.as_str() {
        "ADD" | "COPY" => copy(&mut head)?,
        "RUN" => {
            let run = run(&mut head)?;
            if let (Command::Shell(command), false) = (&run.command, head.documents().is_empty()) {
                text = format!(
                    "RUN {}{}",
                    head.line.text[head.rest_start..head.arguments_start].trim_start(),
                    command.trim_end()
                );
            }
            What::Run(run)
        }
        "HEALTHCHECK" => healthcheck(&mut head)?,
        "ONBUILD" => onbuild(&head)?,
        _ => simple(&head)?,
    };
    let Head { at, keyword, flags, .. } = head;
    flags.finish(&keyword)?;
    Ok(Instruction { at, text, what })
}

/// Reads an instruction that has no flags.
fn simple(head: &Head<'_>) -> Result<What> {
    let words = || Ok::<_, crate::Error>(head.words()?.into_iter().map(|(_, word)| word).collect::<Vec<_>>());
    Ok(match head.keyword.as_str() {
        "ARG" => What::Arg(head.one()?),
        "CMD" => What::Cmd(head.command()?),
        "ENTRYPOINT" => What::Entrypoint(head.command()?),
        "ENV" => What::Env(head.one()?),
        "EXPOSE" => What::Expose(head.one()?.split_whitespace().map(str::to_owned).collect()),
        "LABEL" => What::Label(head.one()?),
        "MAINTAINER" => What::Maintainer(head.one()?),
        "SHELL" => match strings(head.arguments) {
            Strings::List(list) if !list.is_empty() => What::Shell(list),
            _ => return Err(head.at.wrong("SHELL needs a list: SHELL [\"/bin/bash\", \"-c\"]")),
        },
        "STOPSIGNAL" => What::Stopsignal(head.one()?),
        "USER" => What::User(head.one()?),
        "VOLUME" => match words()? {
            paths if paths.is_empty() => return Err(head.at.wrong("VOLUME needs a path")),
            paths => What::Volume(paths),
        },
        "WORKDIR" => What::Workdir(head.one()?),
        other => return Err(head.at.wrong(format!("unknown instruction {other}"))),
    })
}

/// Reads an `ONBUILD`. The inner instruction is checked now: a mistake fails this build, not the build of a child
/// image.
fn onbuild(head: &Head<'_>) -> Result<What> {
    let trigger = Head::read(head.lines, head.escape, head.line, head.rest_start)?;
    match trigger.keyword.as_str() {
        "" => return Err(head.at.wrong("ONBUILD needs an instruction")),
        "ONBUILD" | "FROM" | "MAINTAINER" => {
            return Err(trigger.at.wrong("ONBUILD takes no ONBUILD, FROM or MAINTAINER"));
        }
        _ => {}
    }
    let mut text = head.line.text[head.rest_start..].trim().to_owned();
    for Document { body, name, .. } in head.documents() {
        text.push_str(&format!("\n{body}{name}"));
    }
    instruction(trigger)?;
    Ok(What::Onbuild(text))
}

fn run(head: &mut Head<'_>) -> Result<Run> {
    let (network, security) = (head.flags.take("network")?, head.flags.take("security")?);
    let mounts = head.flags.take_all("mount")?;
    if let Some((at, _)) = head.flags.take("device")? {
        let what = "RUN with --device is not supported: a build sees no device of the machine";
        return Err(at.error(ErrorKind::Unsupported, what));
    }
    let mut command = head.command_of(head.arguments)?;
    let mut script = None;
    if let (Command::Shell(text), [first, ..]) = (&mut command, head.documents()) {
        if Document::parse(head.arguments).is_some() {
            *text = first.content();
            script = text.starts_with("#!").then(|| text.clone());
        } else {
            for Document { body, name, .. } in head.documents() {
                text.push_str(&format!("\n{body}{name}"));
            }
        }
    }
    if command == Command::Exec(Vec::new()) {
        return Err(head.at.wrong("RUN needs a command"));
    }
    Ok(Run { command, script, network, security, mounts })
}

fn copy(head: &mut Head<'_>) -> Result<What> {
    let is_add = head.keyword == "ADD";
    let value = |flag: Option<(Position, String)>| flag.map(|(_, value)| value);
    let mut copy = Copy {
        chown: value(head.flags.take("chown")?),
        chmod: value(head.flags.take("chmod")?),
        link: head.flags.take_bool("link")?.unwrap_or_default(),
        excludes: head.flags.take_all("exclude")?.into_iter().map(|(_, pattern)| pattern).collect(),
        ..Copy::default()
    };
    if is_add {
        copy.checksum = value(head.flags.take("checksum")?);
        copy.keep_git_dir = head.flags.take_bool("keep-git-dir")?;
        copy.unpack = head.flags.take_bool("unpack")?;
    } else {
        copy.from = value(head.flags.take("from")?);
        copy.parents = head.flags.take_bool("parents")?.unwrap_or_default();
    }
    (copy.sources, copy.target) = arguments::sources_and_target(head, head.documents())?;
    Ok(if is_add { What::Add(copy) } else { What::Copy(copy) })
}

fn healthcheck(head: &mut Head<'_>) -> Result<What> {
    let (kind, rest) = head.arguments.split_once(char::is_whitespace).unwrap_or((head.arguments, ""));
    match (kind.to_uppercase().as_str(), rest.trim()) {
        ("NONE", "") => Ok(What::Healthcheck { options: Vec::new(), test: None }),
        ("CMD", rest) => {
            let test = head.command_of(rest)?;
            if test == Command::Exec(Vec::new()) {
                return Err(head.at.wrong("HEALTHCHECK CMD needs a command"));
            }
            let mut options = Vec::new();
            for name in ["interval", "timeout", "start-period", "start-interval", "retries"] {
                options.extend(head.flags.take(name)?.map(|(_, value)| (name.to_owned(), value)));
            }
            Ok(What::Healthcheck { options, test: Some(test) })
        }
        _ => Err(head.at.wrong("HEALTHCHECK is followed by NONE, or by CMD and a command")),
    }
}

#[cfg(test)]
mod tests;
