//! Wrong input gives one error, and leaves nothing behind.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

use super::{Bench, text};

#[test]
fn wrong_names() {
    let Some(bench) = Bench::with_snapshots() else { return };
    let long = "k".repeat(1025);
    for (key, rule) in [("", "is empty"), (&long, "longer than 1024 bytes"), ("a\nb", "contains a newline")] {
        for arguments in [&["prepare", key][..], &["commit", key, "work"], &["info", key], &["rm", key]] {
            let said = bench.fails(arguments, "invalid_argument");
            assert!(said.contains(rule), "{said}");
        }
    }
    bench.ok(&["prepare", &"k".repeat(1024)]);
    assert!(bench.fails(&["prepare", "x", "none"], "not_found").contains("no parent \"none\""));
    assert!(bench.fails(&["prepare", "x", "work"], "invalid_argument").contains("not committed"));
    assert!(bench.fails(&["view", "work", "base"], "already_exists").contains("\"work\" is in use"));
    assert!(bench.fails(&["commit", "base", "work"], "already_exists").contains("\"base\" is in use"));
    bench.fails(&["commit", "x", "look"], "failed_precondition");
    bench.fails(&["commit", "x", "none"], "not_found");
    bench.fails(&["mounts", "base"], "failed_precondition");
    bench.fails(&["ls", "name=x"], "invalid_argument");
    bench.fails(&["diff", "work", "none"], "not_found");
    assert!(bench.fails(&["rm", "base"], "failed_precondition").contains("children"));
    bench.fails(&["apply", "base"], "failed_precondition");
}

#[test]
fn misuse() {
    let Some(bench) = Bench::new() else { return };
    for line in ["", "nosuch", "info", "ls --nosuch", "label k", "label k v", "label k =v", "--backend zfs ls", "rm"] {
        let arguments: Vec<_> = line.split_whitespace().collect();
        bench.misuse(&arguments);
        let said = bench.misuse(&[&arguments[..], &["--json"]].concat());
        let error: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{line}: {error}: {said}"));
        assert_eq!(error["error"]["kind"], "usage", "{line}");
        let message = error["error"]["message"].as_str().expect("a message");
        assert!(!message.contains(['\n', '\x1b']) && !message.contains("Usage"), "{message:?}");
    }
    bench.misuse(&["ls", "-q", "-v"]);
    bench.misuse(&["diff", "k", "--canonical"]);
    assert!(!bench.path("store").exists());
}

#[test]
fn unusable_roots() {
    let Some(bench) = Bench::new() else { return };
    fs::write(bench.path("file"), "").expect("write");
    fs::create_dir(bench.path("full")).expect("mkdir");
    fs::write(bench.path("full/mine"), "").expect("write");
    let at = |root: &str, kind: &str| {
        let root = if root.starts_with('/') { root.into() } else { bench.path(root) };
        let root = root.to_str().expect("UTF-8").to_owned();
        let said = bench.fails(&["prepare", "k", "--root", &root], kind);
        assert!(said.contains(&root), "{said}");
        said
    };
    at("/proc/no", "not_found");
    at("file/store", "io");
    assert!(at("full", "failed_precondition").contains("mine"));
    for (root, kind) in [("file", "io"), ("file/store", "io"), ("full", "failed_precondition")] {
        let said = at(root, kind);
        let root = bench.path(root);
        for command in ["ls", "images", "usage", "gc"] {
            assert_eq!(bench.fails(&[command, "--root", root.to_str().expect("UTF-8")], kind), said, "{command}");
        }
        let doctor = bench.run(&["doctor", "--root", root.to_str().expect("UTF-8")]);
        let why = said.trim_start_matches("strata: ").trim_end();
        assert!(doctor.status.code() == Some(1) && text(&doctor.stdout).contains(why), "{doctor:?}");
    }
    fs::create_dir(bench.path("empty")).expect("mkdir");
    assert_eq!(bench.ok(&["ls", "--root", bench.path("empty").to_str().expect("UTF-8")]), "");
    assert!(fs::read_dir(bench.path("full")).expect("full").count() == 1, "a stranger's directory stays as it was");

    bench.ok(&["prepare", "k"]);
    let said = bench.fails(&["info", "k", "--backend", "overlay"], "failed_precondition");
    assert!(said.contains("copy") && said.contains("overlay"), "{said}");
    bench.misuse(&["ls", "--root", ""]);
}

#[test]
fn damaged_databases() {
    let Some(bench) = Bench::new() else { return };
    bench.ok(&["prepare", "k"]);
    bench.database().pragma_update(None, "user_version", 99).expect("set the version");
    for arguments in [&["ls"][..], &["prepare", "l"], &["rm", "k"]] {
        let said = bench.fails(arguments, "unsupported");
        assert!(said.contains("format 99") && said.contains("newer strata"), "{said}");
    }
    let doctor = bench.run(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(1), "a store that cannot be opened");
    assert!(text(&doctor.stdout).contains("format 99"));

    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(bench.path(&format!("store/strata.db{suffix}")));
    }
    fs::write(bench.path("store/strata.db"), [b'x'; 8192]).expect("write");
    assert!(bench.fails(&["ls"], "data_loss").contains("strata.db"));
}

/// A store without its database is neither taken for an empty store nor for a directory of somebody else.
#[test]
fn lost_databases() {
    let Some(bench) = Bench::with_snapshots() else { return };
    let database = bench.path("store/strata.db");
    fs::write(&database, "").expect("truncate");
    let refuse = || {
        for line in ["ls", "images", "usage", "gc", "prepare l", "info base", "rm base", "check", "prepare l base"] {
            let said = bench.fails(&line.split(' ').collect::<Vec<_>>(), "data_loss");
            let shown = format!("{} holds snapshots, but their database", bench.path("store").display());
            assert!(said.contains(&shown) && said.contains("from a backup"), "{line}: {said}");
        }
        let doctor = bench.run(&["doctor"]);
        assert!(doctor.status.code() == Some(1) && text(&doctor.stdout).contains("holds snapshots"), "{doctor:?}");
    };
    refuse();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(bench.path(&format!("store/strata.db{suffix}")));
    }
    refuse();
    assert!(!database.exists(), "nothing is put in its place");
    fs::remove_dir_all(bench.path("store/s")).expect("remove");
    fs::create_dir(bench.path("store/s")).expect("mkdir");
    assert_eq!(bench.ok(&["ls"]), "", "a first start that was interrupted");
    fs::create_dir(bench.path("store/streams")).expect("mkdir");
    assert!(bench.fails(&["ls"], "data_loss").contains("holds snapshots"));
}

/// Takes as long as strata waits for a lock.
#[test]
fn locked_database() {
    let Some(bench) = Bench::new() else { return };
    bench.ok(&["prepare", "k"]);
    let database = bench.database();
    database.execute_batch("BEGIN IMMEDIATE").expect("lock");
    assert_eq!(bench.names(&[]), ["k"], "readers do not wait for a writer");
    let output = bench.run(&["prepare", "l", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&output.stderr).expect("an object");
    assert_eq!(error["error"]["kind"], "unavailable", "{error}");
    database.execute_batch("ROLLBACK").expect("unlock");
    bench.ok(&["prepare", "l"]);
}

/// The command of a user without any privilege.
fn unprivileged(bench: &Bench, arguments: &[&str]) -> Output {
    let mut command = bench.unprivileged(|copy| Command::new(copy));
    command.args(["--json", "--backend", "copy", "--root"]).arg(bench.path("store"));
    command.args(arguments).output().expect("run")
}

#[test]
fn a_store_of_somebody_else() {
    let Some(bench) = Bench::mounting() else { return };
    bench.ok(&["prepare", "k"]);
    for arguments in [&["ls"][..], &["info", "k"], &["prepare", "l"], &["rm", "k"]] {
        let output = unprivileged(&bench, arguments);
        let error: Value = serde_json::from_slice(&output.stderr).expect("an object");
        assert_eq!((output.status.code(), &error["error"]["kind"]), (Some(1), &"permission_denied".into()), "{error}");
        assert!(error["error"]["message"].as_str().is_some_and(|said| said.contains("root")), "{error}");
    }
}

#[test]
fn without_privileges() {
    let Some(bench) = Bench::mounting() else { return };
    for line in ["ls", "usage", "doctor"] {
        let output = unprivileged(&bench, &[line]);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{line}");
    }
    let output = unprivileged(&bench, &["prepare", "k"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("permission_denied") && said.contains("as root") && said.contains("unshare"), "{said}");
    assert!(!bench.path("store").exists());
}

#[test]
fn failures_make_no_store() {
    let Some(bench) = Bench::new() else { return };
    bench.fails(&["prepare", ""], "invalid_argument");
    bench.fails(&["prepare", "k", "none"], "not_found");
    assert!(!bench.path("store").exists());
}
