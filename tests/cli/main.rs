//! The binary from outside: what it prints where, its exit status, and what it makes of bad input.

#[path = "../support/archive.rs"]
mod archive;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tally.rs"]
mod tally;

mod bounds;
mod builds;
mod check;
mod compare;
mod confinement;
mod conformance;
mod containers;
mod documents;
mod exports;
mod faulty;
mod frame;
mod images;
mod input;
mod layers;
mod network;
mod registries;
mod signals;
mod snapshots;
mod user_namespace;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use strata::mount::scratch::{FsType, Scratch};
use tempfile::TempDir;

/// A user without any privilege.
const NOBODY: u32 = 65_534;

/// A directory for one test, with a store in it once a command makes one.
struct Bench {
    dir: TempDir,
    /// The strategy of its store.
    backend: &'static str,
    /// The file system below the bench, if the bench does not just lie in the directory for temporary files.
    _scratch: Option<Scratch>,
}

impl Bench {
    /// A bench for commands that need no mount, or `None` where this user cannot be root even in a user namespace: then
    /// the test must return.
    fn new() -> Option<Self> {
        support::require("root", privileges().map(drop)).then(Self::bare)
    }

    /// A bench for commands that need no store.
    fn bare() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory"), backend: "copy", _scratch: None }
    }

    /// A bench whose commands can mount, or `None` where this user cannot: then the test must return.
    fn mounting() -> Option<Self> {
        Self::on("copy", FsType::Tmpfs)
    }

    /// The same with another strategy, on a file system of its own.
    fn on(backend: &'static str, fs: FsType) -> Option<Self> {
        let scratch = support::scratch(fs)?;
        Some(Self { dir: tempfile::tempdir_in(scratch.path()).expect("a directory"), backend, _scratch: Some(scratch) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut words = privileges().unwrap_or_default().to_vec();
        words.push(env!("CARGO_BIN_EXE_strata"));
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.env_remove("STRATA_LOG").env("STRATA_ROOT", self.path("store")).stdin(Stdio::null());
        if !arguments.contains(&"--backend") {
            command.args(["--backend", self.backend]);
        }
        command.args(arguments);
        command
    }

    /// A command of an unprivileged user, made by `make` from the path of a copy of the binary.
    fn unprivileged(&self, make: impl FnOnce(&Path) -> Command) -> Command {
        let copy = self.path("strata");
        if !copy.exists() {
            fs::copy(env!("CARGO_BIN_EXE_strata"), &copy).expect("copy");
            fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
        }
        let mut command = make(&copy);
        command.uid(NOBODY).gid(NOBODY);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("run strata")
    }

    /// Its answer, if it succeeds without a word besides.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{arguments:?}: {stdout}");
        stdout
    }

    /// Its answer as one JSON document.
    fn json(&self, arguments: &[&str]) -> Value {
        let answer = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {answer}"))
    }

    /// The error of a command that must fail with status 1: one line, one JSON object of that kind, and no answer.
    fn fails(&self, arguments: &[&str], kind: &str) -> String {
        self.fails_with(1, arguments, kind)
    }

    /// The same for another status.
    fn fails_with(&self, status: i32, arguments: &[&str], kind: &str) -> String {
        let output = self.run(&[arguments, &["--json"]].concat());
        let (stderr, failed) = (text(&output.stderr), (Some(status), ""));
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), failed, "{arguments:?}: {stderr}");
        let error: Value = serde_json::from_str(&stderr).unwrap_or_else(|error| panic!("{error}: {stderr}"));
        assert_eq!(error["error"]["kind"], kind, "{arguments:?}: {stderr}");
        assert!(error["error"]["chain"].as_array().is_some_and(|chain| !chain.is_empty()), "{stderr}");

        let output = self.run(arguments);
        let line = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), failed, "{arguments:?}: {line}");
        assert!(line.starts_with("strata: ") && line.matches('\n').count() == 1, "{arguments:?}: {line:?}");
        line
    }

    /// The message of a command that must refuse its arguments.
    fn misuse(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""), "{arguments:?}");
        text(&output.stderr)
    }

    /// A store with `base` (committed), `work` (active) and `look` (a view) on it.
    fn with_snapshots() -> Option<Self> {
        let bench = Self::new()?;
        for line in ["prepare first", "commit base first", "prepare work base --label role=test", "view look base"] {
            assert_eq!(bench.ok(&line.split(' ').collect::<Vec<_>>()), "", "{line}");
        }
        Some(bench)
    }

    fn names(&self, filters: &[&str]) -> Vec<String> {
        let list = self.json(&[&["ls"], filters].concat());
        let name = |info: &Value| info["name"].as_str().expect("a name").to_owned();
        list.as_array().expect("a list").iter().map(name).collect()
    }

    fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path("store/strata.db")).expect("open the database")
    }
}

/// The program and its arguments through which a command has the privileges that a store needs: none for root, a user
/// namespace of its own for others.
fn privileges() -> Result<&'static [&'static str], String> {
    const WAYS: [&[&str]; 2] = [&["unshare", "-rm", "--map-auto"], &["unshare", "-rm"]];
    static FOUND: OnceLock<Option<&[&str]>> = OnceLock::new();
    if rustix::process::geteuid().is_root() {
        return Ok(&[]);
    }
    let works =
        |way: &&&[&str]| Command::new(way[0]).args(&way[1..]).arg("true").output().is_ok_and(|o| o.status.success());
    let found = FOUND.get_or_init(|| WAYS.iter().find(works).copied());
    found.ok_or_else(|| "not root, and `unshare -rm` makes no user namespace".to_owned())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}
