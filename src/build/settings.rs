//! The instructions that set how containers of the image start.
//!
//! # References
//! Dockerfile reference; docker's image specification v1.2, "Container RunConfig Field Descriptions".

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::parse::{Command, Position};
use crate::error::Result;
use crate::oci::config::Settings;

/// The shell of commands in shell form, unless `SHELL` sets another.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The shell of a stage, and whether the stage has a `CMD` of its own.
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

    /// Returns the arguments that run a command: in shell form, those of the shell.
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

    /// Sets the entry point. An inherited `CMD` is dropped, because it holds arguments for another entry point.
    pub(super) fn set_entrypoint(&mut self, settings: &mut Settings, command: &Command) {
        settings.entrypoint = self.args(command);
        if !self.has_cmd {
            settings.cmd = Vec::new();
        }
    }
}

/// Returns `path` as an absolute path without `.` and `..`; a relative `path` begins at `dir`.
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

/// The ports that `[[IP:]PORT[-PORT]:]PORT[-PORT][/PROTOCOL]` exposes, each with its protocol.
pub(super) fn ports(at: &Position, text: &str) -> Result<Vec<String>> {
    let wrong = || at.wrong(format!("{text:?} is no port: PORT[-PORT][/tcp|udp|sctp]"));
    let inner = text.rsplit(':').next().unwrap_or_default();
    let (ports, protocol) = inner.split_once('/').unwrap_or((inner, "tcp"));
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_lowercase() };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if first > last || !["tcp", "udp", "sctp"].contains(&&*protocol) {
        return Err(wrong());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// Refuses a text that is no signal. A signal is a number, or a name with or without `SIG`.
pub(super) fn check_signal(at: &Position, text: &str) -> Result<()> {
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let is_number = text.parse::<u8>().is_ok_and(|number| number > 0);
    let is_real_time = |base: &str, sign: &str| {
        let rest = name.strip_prefix(base).map(|rest| rest.strip_prefix(sign).unwrap_or(rest));
        rest.is_some_and(|rest| rest.is_empty() || rest.parse::<u8>().is_ok_and(|number| number < 16))
    };
    let is_known = is_number
        || format!("SIG{name}").parse::<nix::sys::signal::Signal>().is_ok()
        || is_real_time("RTMIN", "+")
        || is_real_time("RTMAX", "-");
    is_known
        .then_some(())
        .ok_or_else(|| at.wrong(format!("{text:?} is no signal: a number, or a name such as SIGTERM")))
}

/// Returns the JSON of a `HEALTHCHECK` in the config of an image.
pub(super) fn healthcheck(at: &Position, options: &[(String, String)], test: Option<&Command>) -> Result<Value> {
    let kind = |kind: &str| vec![kind.to_owned()];
    let test = match test {
        None => kind("NONE"),
        Some(Command::Shell(text)) => [kind("CMD-SHELL"), vec![text.clone()]].concat(),
        Some(Command::Exec(args)) => [kind("CMD"), args.clone()].concat(),
    };
    let mut check = json!({"Test": test});
    for (name, value) in options {
        let (field, value) = match name.as_str() {
            "interval" => ("Interval", nanoseconds(at, name, value)?),
            "timeout" => ("Timeout", nanoseconds(at, name, value)?),
            "start-period" => ("StartPeriod", nanoseconds(at, name, value)?),
            "start-interval" => ("StartInterval", nanoseconds(at, name, value)?),
            _ => {
                let count = value.parse::<u32>().map(i64::from);
                ("Retries", count.map_err(|_| at.wrong(format!("--retries={value} is no number")))?)
            }
        };
        // 0 means the default, and so does a missing field.
        if value != 0 {
            check[field] = json!(value);
        }
    }
    Ok(check)
}

/// The shortest duration of an option of a health check, in nanoseconds; Docker has the same limit.
const NANOSECONDS_MIN: i64 = 1_000_000;

fn nanoseconds(at: &Position, name: &str, value: &str) -> Result<i64> {
    let duration = if value == "0" { Some(SignedDuration::ZERO) } else { value.parse().ok() };
    let nanos = duration.and_then(|duration: SignedDuration| i64::try_from(duration.as_nanos()).ok());
    nanos
        .filter(|nanos| *nanos == 0 || *nanos >= NANOSECONDS_MIN)
        .ok_or_else(|| at.wrong(format!("--{name}={value} is no duration of at least 1ms, such as 1m30s")))
}
