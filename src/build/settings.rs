//! The instructions that say what a container starts with.
//!
//! # References
//! Dockerfile reference; docker's image specification v1.2, "Container RunConfig Field Descriptions".

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::config::Settings;
use super::parse::{Command, Position};
use crate::error::Result;

/// What runs a command in shell form, unless `SHELL` said otherwise.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The shell of a stage, and whether its command is its own.
#[derive(Debug)]
pub(super) struct Shells {
    shell: Vec<String>,
    has_cmd: bool,
}

impl Shells {
    pub(super) fn new(settings: &Settings) -> Self {
        let shell = if settings.shell.is_empty() { SHELL.map(str::to_owned).into() } else { settings.shell.clone() };
        Self { shell, has_cmd: false }
    }

    /// The arguments of a command.
    pub(super) fn args(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(args) => args.clone(),
            Command::Shell(text) => self.shell.iter().chain([text]).cloned().collect(),
        }
    }

    pub(super) fn set(&mut self, settings: &mut Settings, words: &[String]) {
        self.shell = words.to_vec();
        settings.shell = words.to_vec();
    }

    pub(super) fn set_cmd(&mut self, settings: &mut Settings, command: &Command) {
        settings.cmd = self.args(command);
        self.has_cmd = true;
    }

    /// A command that was inherited is for another entry point.
    pub(super) fn set_entrypoint(&mut self, settings: &mut Settings, command: &Command) {
        settings.entrypoint = self.args(command);
        if !self.has_cmd {
            settings.cmd = Vec::new();
        }
    }
}

/// `path`, absolute and clean, as seen from the directory `dir`.
pub(super) fn join(dir: &str, path: &str) -> String {
    let above = if path.starts_with('/') { "" } else { dir };
    let mut clean: Vec<&str> = Vec::new();
    for part in above.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    format!("/{}", clean.join("/"))
}

/// `PORT[-PORT][/PROTOCOL]` with its protocol.
pub(super) fn port(at: &Position, text: &str) -> Result<String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let is_number = |port: &str| port.parse::<u16>().is_ok();
    let protocol = protocol.to_lowercase();
    if ports.split('-').all(is_number) && ports.split('-').count() <= 2 && ["tcp", "udp", "sctp"].contains(&&*protocol)
    {
        return Ok(format!("{ports}/{protocol}"));
    }
    Err(at.wrong(format!("{text:?} is no port: PORT[/tcp|udp|sctp]")))
}

/// The mode that `--chmod` gives.
pub(super) fn mode(at: &Position, text: &str) -> Result<u32> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= crate::tree::MODE_MASK)
        .ok_or_else(|| at.wrong(format!("--chmod={text}: only octal numbers up to 7777 are supported")))
}

/// The document of a `HEALTHCHECK`.
pub(super) fn healthcheck(
    at: &Position,
    options: &[(String, String)],
    test: Option<&Command>,
    shells: &Shells,
) -> Result<Value> {
    let kind = |kind: &str| vec![kind.to_owned()];
    let test = match test {
        None => kind("NONE"),
        Some(Command::Shell(text)) if shells.shell == SHELL => [kind("CMD-SHELL"), vec![text.clone()]].concat(),
        Some(command) => [kind("CMD"), shells.args(command)].concat(),
    };
    let mut check = json!({"Test": test});
    for (name, value) in options {
        let (field, value) = match name.as_str() {
            "interval" => ("Interval", json!(nanoseconds(at, name, value)?)),
            "timeout" => ("Timeout", json!(nanoseconds(at, name, value)?)),
            "start-period" => ("StartPeriod", json!(nanoseconds(at, name, value)?)),
            "start-interval" => ("StartInterval", json!(nanoseconds(at, name, value)?)),
            _ => {
                let count = value.parse::<u32>();
                ("Retries", json!(count.map_err(|_| at.wrong(format!("--retries={value} is no number")))?))
            }
        };
        check[field] = value;
    }
    Ok(check)
}

fn nanoseconds(at: &Position, name: &str, value: &str) -> Result<i64> {
    let duration = value.parse::<SignedDuration>().ok().filter(SignedDuration::is_positive);
    let nanos = duration.and_then(|duration| i64::try_from(duration.as_nanos()).ok());
    nanos.ok_or_else(|| at.wrong(format!("--{name}={value} is no duration, such as 1m30s")))
}
