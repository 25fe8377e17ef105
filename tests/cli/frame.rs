//! Rules for every command: help, logs, pipes, completions.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Bench, support, text};

#[test]
fn help_and_version() {
    let Some(bench) = Bench::new() else { return };
    assert!(bench.ok(&["--version"]).starts_with("strata "));
    let help = bench.ok(&["--help"]);
    let commands = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("commands");
    for name in commands.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        for flag in ["--help", "-h"] {
            let help = bench.ok(&[name, flag]);
            assert!(help.contains("Example:\n  ") || help.contains("Examples:\n  "), "{name} {flag}");
        }
    }
}

/// Whether a variable or nothing says where the store is, no usage line asks for --root.
#[test]
fn usage_asks_for_what_is_missing() {
    let bench = Bench::bare();
    let said = bench.misuse(&["label", "k"]);
    assert!(
        said.contains("Usage: strata label") && said.contains("<KEY> <K=V>...") && !said.contains("--root"),
        "{said}"
    );
    for (variable, shown) in [("/somewhere", "[default:/somewhere]"), ("", "[default:/var/lib/strata]")] {
        let output = bench.command(&["label", "-h"]).env("STRATA_ROOT", variable).output().expect("run");
        let help = text(&output.stdout).split_whitespace().collect::<String>();
        assert!(help.contains(shown), "{help}");
    }
}

#[test]
fn doctor_needs_no_store() {
    let Some(bench) = Bench::new() else { return };
    let found = bench.json(&["doctor"]);
    assert_eq!(found["store"], Value::Null);
    let strategies = found["strategies"].as_array().expect("a list");
    let names: Vec<_> = strategies.iter().map(|strategy| strategy["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["btrfs", "overlay", "copy"]);
    let first = strategies.iter().find(|strategy| strategy["available"] == true).expect("copy at least");
    assert_eq!(found["auto"], first["name"]);
    assert!(strategies.iter().all(|strategy| (strategy["available"] == true) == strategy["reason"].is_null()));
    assert!(!found["features"].as_array().expect("a list").is_empty());
    assert_eq!(fs::read_dir(bench.dir.path()).expect("the directory").count(), 0, "nothing is left of the tries");
    // As `.cargo/config.toml` has it.
    assert_eq!(found["log_sync"], "fdatasync");

    bench.ok(&["prepare", "k", "--durability", "none"]);
    let store = &bench.json(&["doctor"])["store"];
    assert_eq!(store["in_doubt"], json!([]));
    assert_eq!((&store["backend"], &store["durability"]), (&json!("copy"), &json!("none")));
    assert!(bench.ok(&["doctor"]).contains("durability none"));
}

#[test]
fn verbose_says_what_it_does() {
    let Some(bench) = Bench::new() else { return };
    let output = bench.run(&["prepare", "k", "--backend", "auto", "-v"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("chosen"), "{output:?}");
    let output = bench.run(&["prepare", "k", "-v", "--backend", "auto"]);
    assert!(text(&output.stderr).contains("strata: the key \"k\" is in use"), "{output:?}");
    let mut command = bench.command(&["ls", "--backend", "auto"]);
    let output = command.env("STRATA_LOG", "=,=").output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("STRATA_LOG"), "{output:?}");
}

#[test]
fn readers_may_leave_early() {
    let Some(bench) = Bench::with_snapshots() else { return };
    for arguments in [&["ls"][..], &["--help"], &["completions", "bash"], &["ls", "--json"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = bench.command(arguments).stdout(writer).stderr(Stdio::piped()).output().expect("run");
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{arguments:?}");

        let full = File::options().write(true).open("/dev/full").expect("open");
        let output = bench.command(arguments).stdout(full).stderr(Stdio::piped()).output().expect("run");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    }
}

#[test]
fn completions_parse() {
    let Some(bench) = Bench::new() else { return };
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let script = bench.ok(&["completions", shell]);
        assert!(script.contains("strata") && script.contains("prepare"), "{shell}");
        let file = bench.path(shell);
        fs::write(&file, script).expect("write");
        match Command::new(shell).arg(check).arg(&file).output() {
            Ok(output) => assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}"),
            Err(error) => drop(support::require(shell, Err(error.to_string()))),
        }
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.path("man");
    fs::create_dir(&dir).expect("mkdir");
    bench.ok(&["man", dir.to_str().expect("a path")]);
    let page = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let commands = page("strata.1");
    for name in ["import", "build", "conformance", "man"] {
        assert!(commands.contains(&format!("strata\\-{name}(1)")), "{name}: {commands}");
        assert!(page(&format!("strata-{name}.1")).contains("Example"), "{name}");
    }
    assert!(page("strata-prepare.1").contains("\\-\\-backend"));
    let output = bench.run(&["man", bench.path("none").to_str().expect("a path")]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn warnings_are_for_people() {
    let Some(bench) = Bench::with_snapshots() else { return };
    let lose = || {
        bench
            .database()
            .execute("UPDATE setting SET value = 'another boot' WHERE name = 'boot_id'", [])
            .expect("update");
    };
    // The directory of the snapshot that was made first, which is committed now.
    fs::remove_dir_all(bench.path("store/s/1")).expect("remove");
    lose();
    bench.ok(&["label", "base", "a=b"]);
    lose();
    let output = bench.run(&["label", "base", "a=b", "-v"]);
    assert!(text(&output.stderr).contains("missing on disk"), "{output:?}");
}
