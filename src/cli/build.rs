//! Building images.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::container::{NetworkChoice, PIDS_MAX, epoch, find_runtime, free, pids_max};
use super::interrupt::Interrupt;
use super::limits::BuildLimits;
use super::output::shown;
use super::registry::When;
use super::session::Session;
use super::{Done, image::short};
use crate::build::{self, Options, Outcome, Progress};
use crate::error::{Context, Error, Result};
use crate::tree::text;

/// Names of a Dockerfile in a build context, the preferred one first.
const NAMES: [&str; 2] = ["Dockerfile", "Containerfile"];

/// How often the time of a step under way is drawn anew.
const TICK: Duration = Duration::from_millis(100);

/// Build an image from a Dockerfile
///
/// A step makes a layer only if it changed a file. Steps that were done before, on the same files, are not done again.
/// The steps and their output go to standard error; the image's name and ID are printed. SOURCE_DATE_EPOCH, seconds
/// since 1970, makes the image one of that time: no file in it is newer.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  strata build -t app:1 --explain .\n  \
    strata build -t app:1 --secret id=token,env=TOKEN --ssh default .   # RUN --mount=type=secret,id=token,env=TOKEN ...")]
pub(super) struct Build {
    /// The image's name in the store
    #[arg(short = 't', long = "tag", value_name = "NAME")]
    name: String,
    /// The Dockerfile, instead of CONTEXT/Dockerfile or CONTEXT/Containerfile; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A value for an ARG; without =V that of the variable K
    #[arg(long = "build-arg", value_name = "K[=V]", value_parser = argument)]
    arguments: Vec<(String, Option<String>)>,
    /// The stage to build, instead of the last
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Do every step again
    #[arg(long)]
    no_cache: bool,
    /// Tell the first paths that each step changed
    #[arg(long)]
    explain: bool,
    /// The OCI runtime for RUN, instead of the first of crun, runc and youki in PATH
    #[arg(long, value_name = "NAME|PATH")]
    runtime: Option<String>,
    /// The network of RUN: private has outgoing connections by pasta, where that is installed; host is the machine's
    #[arg(long, value_enum, default_value_t)]
    network: NetworkChoice,
    /// A secret that RUN --mount=type=secret can mount: from the file SRC, or from the variable V
    #[arg(long, value_name = "id=ID[,src=FILE|,env=V]", value_parser = secret)]
    secret: Vec<(String, SecretSource)>,
    /// An SSH agent that RUN --mount=type=ssh can ask: that of SSH_AUTH_SOCK, or the one behind SOCKET
    #[arg(long, value_name = "default|ID[=SOCKET]", value_parser = agent)]
    ssh: Vec<(String, Option<PathBuf>)>,
    /// How many processes a RUN may have, where the machine has control groups; 0 is no limit
    #[arg(long, value_name = "N", default_value_t = PIDS_MAX)]
    pids_limit: u32,
    /// Whether the images of FROM and --from are pulled from their registries: those that the store lacks, all, or none
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pull: When,
    #[command(flatten)]
    limits: BuildLimits,
    /// The directory that COPY and ADD take from
    #[arg(value_name = "CONTEXT")]
    context: PathBuf,
}

fn argument(text: &str) -> Result<(String, Option<String>), &'static str> {
    match text.split_once('=') {
        Some(("", _)) => Err("a build argument is NAME=VALUE, or NAME"),
        Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
        None => Ok((text.to_owned(), None)),
    }
}

/// Where a secret is.
#[derive(Clone, Debug)]
enum SecretSource {
    File(PathBuf),
    Variable(String),
}

impl SecretSource {
    fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::File(path) => build::read_secret(path),
            Self::Variable(name) => std::env::var_os(name)
                .map(|value| value.as_bytes().to_vec())
                .ok_or_else(|| Error::not_found(format!("the variable {name} of the secret is not set"))),
        }
    }
}

fn secret(text: &str) -> Result<(String, SecretSource), String> {
    let (mut id, mut kind, mut file, mut variable) = (None, None, None, None);
    for option in text.split(',') {
        match option.split_once('=') {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("src" | "source", value)) => file = Some(value.to_owned()),
            Some(("env", value)) => variable = Some(value.to_owned()),
            Some(("type", value @ ("file" | "env"))) => kind = Some(value.to_owned()),
            _ => return Err(format!("a secret has no {option:?}: id=ID, and src=FILE or env=VARIABLE")),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or("a secret needs an id: id=ID")?;
    let source = match (kind.as_deref(), file, variable) {
        (Some("env"), name, None) => SecretSource::Variable(name.unwrap_or_else(|| id.clone())),
        (None | Some("env"), None, Some(name)) => SecretSource::Variable(name),
        (None | Some("file"), Some(path), None) => SecretSource::File(path.into()),
        // As docker does: the variable of that name, else the file.
        (None, None, None) if std::env::var_os(&id).is_some() => SecretSource::Variable(id.clone()),
        (None | Some("file"), None, None) => SecretSource::File(id.clone().into()),
        _ => return Err("a secret is in a file or in a variable: src=FILE or env=VARIABLE".to_owned()),
    };
    Ok((id, source))
}

fn agent(text: &str) -> Result<(String, Option<PathBuf>), &'static str> {
    match text.split_once('=') {
        Some(("", _) | (_, "")) => Err("an agent is default, ID or ID=SOCKET"),
        Some((id, socket)) => Ok((id.to_owned(), Some(socket.into()))),
        None => Ok((text.to_owned(), None)),
    }
}

impl Build {
    pub fn run(&self, session: &Session) -> Done {
        let interrupt = Interrupt::watch(session)?;
        let (file, dockerfile) = self.dockerfile()?;
        // The first build on a machine may stand on nothing.
        let store = session.make_store()?;
        let runtime = || find_runtime(self.runtime.as_deref());
        let secrets = self.secret.iter().map(|(id, source)| Ok((id.clone(), source.read()?))).collect::<Result<_>>()?;
        let agents = self.ssh.iter().map(socket).collect::<Result<_>>()?;
        let options = Options {
            name: &self.name,
            dockerfile: &dockerfile,
            file: &file,
            context: Some(std::path::absolute(&self.context).at("find the directory", &self.context)?),
            arguments: self.arguments(),
            target: self.target.clone(),
            no_cache: self.no_cache,
            explain: self.explain,
            runtime: &runtime,
            network: self.network.into(),
            pids_max: pids_max(self.pids_limit),
            epoch: epoch()?,
            secrets: &secrets,
            agents: &agents,
            limits: self.limits.limits(),
            pull: Some(&|name| self.pull.bring(session, &store, name, &interrupt)),
            ingest: self.limits.ingest(interrupt.cancel()),
        };
        let built = match Steps::new(session) {
            Some(steps) => build::build(&store, &options, &steps),
            None => build::build(&store, &options, &()),
        };
        free(&store, Some(interrupt.cancel()));
        let built = built?;
        Ok(session.output.either(&built, || format!("{} {}\n", shown(&built.name), built.id))?)
    }

    fn dockerfile(&self) -> Result<(PathBuf, String)> {
        match &self.file {
            Some(file) if file == Path::new("-") => {
                let name = PathBuf::from("standard input");
                let text = build::read_bounded(io::stdin().lock(), &name)?;
                Ok((name, text))
            }
            Some(file) => Ok((file.clone(), build::read_dockerfile(file)?)),
            None => {
                let dir = &self.context;
                dir.metadata().at("open the build context", dir)?;
                let found = NAMES.iter().map(|name| dir.join(name)).find(|path| path.exists());
                let file = found.ok_or_else(|| {
                    Error::not_found(format!("{} has no {}: --file names another", dir.display(), NAMES.join(" or ")))
                })?;
                let text = build::read_dockerfile(&file)?;
                Ok((file, text))
            }
        }
    }

    /// The values of arguments; those of variables that are not set are left out.
    fn arguments(&self) -> BTreeMap<String, String> {
        let from_environment = |name: &String| std::env::var_os(name).map(OsString::into_string).and_then(Result::ok);
        let value = |(name, value): &(String, Option<String>)| {
            Some((name.clone(), value.clone().or_else(|| from_environment(name))?))
        };
        self.arguments.iter().filter_map(value).collect()
    }
}

/// The socket of an agent.
fn socket((id, socket): &(String, Option<PathBuf>)) -> Result<(String, PathBuf)> {
    const VARIABLE: &str = "SSH_AUTH_SOCK";
    let socket = socket.clone().or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
    let socket = socket.ok_or_else(|| Error::not_found(format!("there is no agent: {VARIABLE} is not set")))?;
    let socket = std::path::absolute(&socket).at("find", &socket)?;
    let is_socket = std::os::unix::fs::FileTypeExt::is_socket(&socket.metadata().at("look at", &socket)?.file_type());
    if !is_socket {
        return Err(Error::invalid(format!("{} is no socket of an SSH agent", socket.display())));
    }
    Ok((id.clone(), socket))
}

/// Shows the steps of a build: a line when a step begins, the output of the step, a line when it is done. On a
/// terminal the step that is under way stands below, with its time.
struct Steps {
    bar: Option<ProgressBar>,
    total: Cell<usize>,
    /// An unfinished line of output.
    line: RefCell<Vec<u8>>,
}

impl Steps {
    /// `None` for who wants to hear nothing.
    fn new(session: &Session) -> Option<Self> {
        if session.is_quiet() {
            return None;
        }
        let bar = session.draws().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Some(Self { bar, total: Cell::new(0), line: RefCell::default() })
    }

    fn tell(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            // Progress that cannot be told is no reason to stop.
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Steps {
    fn warn(&self, warning: &str) {
        self.tell(&format!("warning: {}", shown(warning)));
    }

    fn started(&self, number: usize, total: usize, stage: &str, text: &str) {
        self.total.set(total);
        let line = format!("[{number}/{total} {stage}] {}", shown(text.lines().next().unwrap_or_default()));
        self.tell(&line);
        if let Some(bar) = &self.bar {
            bar.reset_elapsed();
            bar.set_message(line);
        }
    }

    fn output(&self, bytes: &[u8]) {
        let mut line = self.line.borrow_mut();
        line.extend_from_slice(bytes);
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let whole: Vec<u8> = line.drain(..=end).collect();
            self.tell(String::from_utf8_lossy(&whole).trim_end());
        }
    }

    fn done(&self, number: usize, outcome: &Outcome) {
        let rest = std::mem::take(&mut *self.line.borrow_mut());
        if !rest.is_empty() {
            self.tell(&String::from_utf8_lossy(&rest));
        }
        if !outcome.writes {
            return;
        }
        for (letter, path) in &outcome.explained {
            self.tell(&format!("    {letter} /{}", text::escape(path.as_os_str().as_bytes())));
        }
        let layer = outcome.layer.as_deref().map_or_else(|| "no change".to_owned(), short);
        let how = if outcome.cached { ", cached" } else { "" };
        let (total, took) = (self.total.get(), outcome.took.as_secs_f64());
        self.tell(&format!("[{number}/{total}] {layer}{how}, {took:.2} s"));
    }
}
