//! Snapshots made, listed, labelled and removed: the answers.

use std::fs;

use serde_json::{Value, json};

use super::{Bench, text};

#[test]
fn lifecycle() {
    let Some(bench) = Bench::with_snapshots() else { return };
    assert_eq!(bench.names(&[]), ["base", "look", "work"]);
    assert_eq!(bench.names(&["kind==active", "kind==view"]), ["look", "work"]);
    assert_eq!(bench.names(&["labels.role==test,parent==base"]), ["work"]);

    bench.ok(&["label", "work", "role=", "a.b/c=d=e"]);
    assert_eq!(bench.json(&["info", "work"])["labels"], json!({"a.b/c": "d=e"}));
    bench.ok(&["commit", "edited", "work"]);
    assert_eq!(bench.names(&["parent==base"]), ["edited", "look"]);
    bench.ok(&["rm", "edited", "look"]);
    bench.ok(&["rm", "base"]);
    assert_eq!(bench.ok(&["ls"]), "");
    assert_eq!(fs::read_dir(bench.path("store/s")).expect("s").count(), 0, "space is freed");
}

#[test]
fn tables() {
    let Some(bench) = Bench::with_snapshots() else { return };
    let lines = |arguments: &[&str]| -> Vec<Vec<String>> {
        bench.ok(arguments).lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let list = lines(&["ls"]);
    assert_eq!(list[0], ["KEY", "KIND", "CREATED", "PARENT"]);
    assert_eq!((&list[1][..2], list[1].len()), (&["base".to_owned(), "committed".to_owned()][..], 3));
    assert_eq!(list[3][3], "base");
    assert_eq!(lines(&["ls", "--all"])[1][0], "local");
    let tree = bench.ok(&["ls", "--tree"]);
    assert!(tree.contains("\nbase ") && tree.contains("\n  look ") && tree.contains("\n  work "), "{tree}");
    assert_eq!(lines(&["usage"])[0], ["KEY", "SIZE", "INODES"]);
    assert_eq!(lines(&["usage"])[4][0], "(total)");
    let info = bench.ok(&["info", "work"]);
    assert!(info.contains("name:    work\n") && info.contains("label:   role=test\n"), "{info}");
    assert_eq!(bench.ok(&["gc"]), "freed 0 snapshots\n");
}

#[test]
fn documents() {
    let Some(bench) = Bench::new() else { return };
    let made = bench.json(&["prepare", "first"]);
    assert_eq!((&made["name"], &made["kind"], &made["parent"]), (&json!("first"), &json!("active"), &Value::Null));
    assert_eq!(bench.json(&["commit", "base", "first"])["kind"], "committed");
    assert_eq!(bench.json(&["view", "look", "base"])["parent"], "base");
    assert_eq!(bench.json(&["label", "look", "a=b"])["labels"], json!({"a": "b"}));
    let info = bench.json(&["info", "look"]);
    assert_eq!((&info["owner"], &info["diff_id"]), (&json!("local"), &Value::Null));
    let created = info["created"].as_str().expect("a time");
    assert!(created.parse::<jiff::Timestamp>().is_ok() && created.ends_with('Z'), "{created}");
    assert_eq!(bench.json(&["ls", "--all", "kind==view"])[0]["owner"], "local");
    assert_eq!(bench.json(&["ls"])[0].get("owner"), None);
    let usage = bench.json(&["usage"]);
    assert_eq!(usage["snapshots"][0]["name"], "base");
    assert!(usage["total"]["inodes"].as_u64() >= Some(1), "{usage}");
    let mounts = bench.json(&["mounts", "look"]);
    assert_eq!((&mounts[0]["type"], &mounts[0]["options"]), (&json!("bind"), &json!(["rbind", "ro"])));
    assert_eq!(bench.json(&["rm", "-r", "base"]), json!({"removed": ["look", "base"], "freed": 2, "waiting": 0}));
    assert_eq!(bench.json(&["gc"]), json!({"freed": 0, "waiting": 0}));
}

#[test]
fn without_a_store() {
    let Some(bench) = Bench::new() else { return };
    for arguments in [&["ls"][..], &["ls", "--tree"], &["usage"]] {
        assert_eq!(bench.ok(arguments), "", "{arguments:?}");
    }
    assert_eq!(bench.json(&["ls"]), json!([]));
    assert_eq!(bench.ok(&["gc"]), "freed 0 snapshots\n");
    for line in ["info a", "rm a", "label a b=c", "mounts a", "commit b a", "usage a", "diff a", "tree a", "apply a"] {
        let said = bench.fails(&line.split(' ').collect::<Vec<_>>(), "not_found");
        assert!(said.contains("there is no store at") && said.contains("--root"), "{said}");
    }
    assert!(!bench.path("store").exists(), "reading makes nothing");
}

#[test]
fn removing_several_tries_all() {
    let Some(bench) = Bench::with_snapshots() else { return };
    let output = bench.run(&["rm", "none", "work", "neither", "look", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("a document");
    assert_eq!(answer["removed"], json!(["work", "look"]));
    let said = text(&output.stderr);
    assert_eq!(said.lines().filter(|line| line.contains("not_found")).count(), 2, "{said}");
    assert_eq!(bench.names(&[]), ["base"]);
}

#[test]
fn removing_recursively_takes_children_first() {
    let Some(bench) = Bench::with_snapshots() else { return };
    for line in ["commit middle work", "prepare top middle", "prepare other"] {
        bench.ok(&line.split(' ').collect::<Vec<_>>());
    }
    bench.ok(&["rm", "-r", "--wait", "base", "top"]);
    assert_eq!(bench.names(&[]), ["other"]);
}

#[test]
fn control_characters_stay_in_the_store() {
    let Some(bench) = Bench::new() else { return };
    bench.ok(&["prepare", "a\x1b[31m\rb"]);
    for arguments in [&["ls"][..], &["ls", "--tree"], &["info", "a\x1b[31m\rb"], &["usage"]] {
        let shown = bench.ok(arguments);
        assert!(shown.contains(r"a\u{1b}[31m\rb") && !shown.contains('\x1b'), "{shown:?}");
    }
    assert_eq!(bench.names(&[]), ["a\x1b[31m\rb"]);
}
