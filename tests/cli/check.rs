//! `strata check`: what it prints, and its exit status.

use std::fs;

use super::archive::docker_archive;
use super::{Bench, text};

#[test]
fn checking_and_repairing() {
    let Some(bench) = Bench::with_snapshots() else { return };
    assert_eq!(bench.ok(&["check"]), "3 snapshots, 0 images: all is well\n");
    fs::create_dir(bench.path("store/s/99")).expect("mkdir");
    assert!(bench.ok(&["check"]).ends_with("1 left over\nstrata check --repair clears up what is left over\n"));
    let told = bench.ok(&["check", "--dry-run"]);
    assert!(told.contains("debris") && told.contains("s/99 is nobody's") && told.contains("clear up"), "{told}");
    assert!(bench.path("store/s/99").exists(), "it was only to say what it would do");
    let document = bench.json(&["check"]);
    assert_eq!((&document["findings"][0]["problem"], &document["findings"][0]["id"]), (&"debris".into(), &99.into()));
    assert_eq!(document["findings"][0]["repair"]["remedy"], "collect");
    assert_eq!(bench.ok(&["check", "--repair", "--dry-run"]), told, "nor beside --repair");
    assert!(bench.path("store/s/99").exists());
    assert!(bench.ok(&["check", "--repair"]).contains("freed the space of 1 snapshot\n"));
    assert!(!bench.path("store/s/99").exists());
}

#[test]
fn damage_is_a_failure() {
    let Some(bench) = Bench::with_snapshots() else { return };
    let query = "SELECT id FROM snapshot WHERE name = 'base'";
    let id: i64 = bench.database().query_row(query, [], |row| row.get(0)).expect("its id");
    fs::remove_dir_all(bench.path(&format!("store/s/{id}"))).expect("remove");
    for arguments in [&["check"][..], &["check", "--repair"]] {
        let output = bench.run(arguments);
        let (answer, line) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{answer}");
        assert!(answer.contains("damaged") && answer.contains("\"base\""), "{answer}");
        assert!(line.starts_with("strata: ") && line.matches('\n').count() == 1, "{line:?}");
    }
    for (arguments, hint) in [
        (&["check"][..], "strata check --dry-run says what"),
        (&["check", "--deep"], "strata check --deep --dry-run says what"),
        (&["check", "--dry-run"], "say what strata check --repair does"),
        (&["check", "--repair", "--dry-run", "--deep"], "say what strata check --deep --repair does"),
    ] {
        let said = text(&bench.run(arguments).stderr);
        assert!(said.contains(hint), "{arguments:?}: {said}");
    }
    let output = bench.run(&["check", "--json"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a document");
    let finding = &document["findings"][0];
    assert_eq!((&document["damaged"], &finding["severity"]), (&1.into(), &"damaged".into()), "{document}");
    assert!(finding["repair"]["reason"].as_str().is_some_and(|why| why.contains("strata rm")), "{document}");
    assert_eq!(bench.names(&[]), ["base", "look", "work"], "nothing is removed that no image brings again");
}

#[test]
fn layers_are_read() {
    let Some(bench) = Bench::mounting() else { return };
    bench.ok(&["prepare", "first"]);
    bench.ok(&["commit", "base", "first"]);
    assert!(bench.ok(&["check", "--deep"]).contains("1 not verified"));
    assert!(bench.ok(&["check", "--record"]).contains("1 snapshot, 0 images, 1 recorded: all is well"));
    assert!(bench.ok(&["check", "--deep"]).contains("1 snapshot, 0 images, 1 verified: all is well"));
    assert_eq!(bench.json(&["check", "--deep"])["verified"], 1);
}

#[test]
fn a_lost_layer_is_imported_again() {
    let Some(bench) = Bench::mounting() else { return };
    let archive = bench.path("image.tar");
    let layers = ["low", "high"].map(|name| vec![(name.to_owned(), b"content".to_vec())]);
    fs::write(&archive, docker_archive(&[("app", layers.to_vec())])).expect("write");
    let archive = archive.to_str().expect("UTF-8");
    bench.ok(&["import", archive]);
    let low = &bench.names(&[r#"parent=="""#])[0];
    let said = bench.fails(&["rm", low], "failed_precondition");
    assert!(said.contains("strata rmi app:latest first") && !said.contains("rm -r"), "{said}");
    let query = "SELECT id FROM snapshot WHERE parent IS NULL";
    let id: i64 = bench.database().query_row(query, [], |row| row.get(0)).expect("its id");
    fs::remove_dir_all(bench.path(&format!("store/s/{id}"))).expect("remove");
    let told = text(&bench.run(&["check", "--dry-run"]).stdout);
    assert!(told.contains("remove the image app:latest, the layer sha256:"), "{told}");
    assert_eq!(bench.names(&[]).len(), 2, "it was only to say what it would do");
    bench.ok(&["view", "look", "app:latest"]);
    let told = text(&bench.run(&["check", "--dry-run"]).stdout);
    assert!(told.contains("none: the snapshot \"look\", which is no image's, stands on it: strata rm look"), "{told}");
    bench.ok(&["rm", "look"]);
    assert!(bench.ok(&["check", "--repair"]).contains("removed 1 image and 2 layers, made 0 again"));
    assert_eq!((bench.names(&[]).len(), bench.ok(&["images"])), (0, String::new()));
    bench.ok(&["import", archive]);
    assert!(bench.ok(&["check"]).ends_with("2 snapshots, 1 image: all is well\n"));
}
