//! Every kind of finding that needs no mount, and its remedy.

use super::*;
use crate::id::Digest;
use crate::store::{CheckOptions, CommitOptions, NewImage, Origin, Problem, Remedy, Severity};

/// The findings of a check, as `problem subject remedy`.
fn said(store: &Store) -> Vec<String> {
    let checked = store.check(&CheckOptions::default()).expect("check");
    let line = |finding: &crate::store::Finding| {
        let what = match &finding.problem {
            Problem::Database { .. } => "database".to_owned(),
            Problem::Missing(snapshot) => format!("missing {}", snapshot.name),
            Problem::Top(image) => format!("top {}", image.name),
            Problem::Document { image, why, .. } => format!("document {} {why}", image.name),
            Problem::Debris { id } => format!("debris {id}"),
            Problem::Waiting { id } => format!("waiting {id}"),
            Problem::Abandoned(snapshot) => format!("abandoned {}", snapshot.name),
            other => panic!("{other}"),
        };
        let remedy = match &finding.remedy {
            Remedy::Collect => "collect".to_owned(),
            Remedy::MakeAgain => "make again".to_owned(),
            Remedy::ImportAgain { images, snapshots } => {
                format!("import {}, {}", images.join(" "), snapshots.join(" "))
            }
            Remedy::None(_) => "none".to_owned(),
        };
        format!("{what}: {remedy}")
    };
    checked.findings.iter().map(line).collect()
}

fn repair(store: &Store) -> crate::store::Repaired {
    let findings = store.check(&CheckOptions::default()).expect("check").findings;
    store.repair(&findings).expect("repair")
}

/// The layers `low` and `high` of the image `app`, and the snapshot `user`, which no image needs.
fn furnished(place: &Place) -> Store {
    let store = place.store();
    let options = CommitOptions { flush: Flush::Now, origin: Origin::Image, diff_id: Some(Digest::of(b"layer")) };
    for (name, parent) in [("low", ""), ("high", "low")] {
        store.prepare("making", parent, NONE).expect("prepare");
        store.commit_with(name, "making", NONE, options).expect("commit");
    }
    let image = NewImage { name: "app", config: b"config", manifest: b"manifest", top: Some("high") };
    store.set_image(&image).expect("image");
    committed(&store, "user", "", Flush::Now);
    store
}

fn take_from_disk(place: &Place, name: &str) {
    let query = format!("SELECT id FROM snapshot WHERE name = '{name}'");
    let id: i64 = place.sql().query_row(&query, [], |row| row.get(0)).expect("its id");
    fs::remove_dir_all(place.root().join("s").join(id.to_string())).expect("remove");
}

#[test]
fn a_sound_store_has_no_finding() {
    let place = Place::new();
    let store = furnished(&place);
    store.prepare("top", "high", NONE).expect("prepare");
    store.view("sight", "high", NONE).expect("view");
    let checked = store.check(&CheckOptions::default()).expect("check");
    assert_eq!((checked.snapshots, checked.images, checked.findings), (5, 1, Vec::new()));
    assert_eq!(repair(&store), crate::store::Repaired::default());
    assert_eq!(names(&store), ["high", "low", "sight", "top", "user"]);
}

#[test]
fn what_is_left_over_is_collected() {
    let place = Place::new();
    let store = furnished(&place);
    fs::create_dir(place.root().join("s/77")).expect("mkdir");
    store.prepare("gone", "", NONE).expect("prepare");
    store.remove("gone").expect("remove");
    place.execute("UPDATE snapshot SET worker = '1-1', state = 2 WHERE name = 'user'");
    assert_eq!(said(&store), ["debris 77: collect", "waiting 4: collect", "abandoned user: collect"]);
    assert_eq!(store.check(&CheckOptions::default()).expect("check").damaged(), 0);
    assert_eq!(repair(&store).freed, 2);
    assert_eq!(said(&store), Vec::<String>::new());
    assert_eq!(names(&store), ["high", "low", "user"]);
}

/// Opens the store as another process would.
fn another(root: &Path) -> Store {
    let snapshots = root.canonicalize().expect("root").join("s");
    let backend = Plain { snapshots, seals_to_fresh_id: false, create_is_brief: false, during: During::nothing() };
    let database = Database::create(root, Durability::Commit).expect("database");
    Store::new(database, Box::new(backend), LOCAL).expect("store")
}

/// A snapshot that is removed after the rows were read and before the disk is listed is no finding.
#[test]
fn what_goes_meanwhile_is_not_missing() {
    let place = Place::new();
    drop(furnished(&place));
    let (root, listings) = (place.root().to_owned(), std::sync::atomic::AtomicU64::new(0));
    let store = place.store_during(During::new(move |method, _| {
        if method == "inventory" && listings.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1 {
            let other = another(&root);
            other.remove("user").expect("remove");
            other.cleanup().expect("cleanup");
        }
        Ok(())
    }));
    assert_eq!(said(&store), Vec::<String>::new());
    assert_eq!((names(&store), place.ids().len()), (vec!["high".to_owned(), "low".to_owned()], 2));
}

/// Rows and directories in the work of a living process are no findings.
#[test]
fn the_living_are_left_alone() {
    let place = Place::new();
    drop(furnished(&place));
    let root = place.root().to_owned();
    let busy = place.store_during(During::new(move |method, _| {
        if method == "create" {
            let other = another(&root);
            assert_eq!(said(&other), Vec::<String>::new());
            assert_eq!(repair(&other), crate::store::Repaired::default());
        }
        Ok(())
    }));
    busy.prepare("new", "", NONE).expect("prepare");
    assert_eq!(names(&busy), ["high", "low", "new", "user"]);
}

#[test]
fn a_layer_that_is_missing_is_imported_again() {
    let place = Place::new();
    let store = furnished(&place);
    take_from_disk(&place, "low");
    assert_eq!(said(&store), ["missing low: import app, high low"]);
    assert_eq!(store.check(&CheckOptions::default()).expect("check").damaged(), 1);
    let repaired = repair(&store);
    assert_eq!((repaired.images, repaired.snapshots), (vec!["app".to_owned()], vec!["high".into(), "low".to_owned()]));
    assert_eq!((names(&store), said(&store)), (vec!["user".to_owned()], Vec::new()));
    assert_eq!(place.count("document"), 0);
}

/// A snapshot that a user made is a child of the damaged layer, or is damaged itself.
#[test]
fn what_no_import_brings_again_stays() {
    let place = Place::new();
    let store = furnished(&place);
    store.prepare("mine", "high", NONE).expect("prepare");
    for name in ["low", "user"] {
        take_from_disk(&place, name);
    }
    assert_eq!(said(&store), ["missing low: none", "missing user: none"]);
    repair(&store);
    assert_eq!(names(&store), ["high", "low", "mine", "user"]);
    assert_eq!(said(&store).len(), 2);
}

#[test]
fn an_empty_snapshot_is_made_again() {
    let place = Place::new();
    let store = furnished(&place);
    store.prepare("top", "high", NONE).expect("prepare");
    take_from_disk(&place, "top");
    assert_eq!(said(&store), ["missing top: make again"]);
    assert_eq!(repair(&store).made_again, 1);
    assert_eq!(said(&store), Vec::<String>::new());
}

#[test]
fn an_image_without_its_documents_is_removed() {
    for (damage, expected) in [
        ("DELETE FROM document WHERE bytes = CAST('config' AS BLOB)", "document app is missing: import app, "),
        (
            "UPDATE document SET bytes = CAST('x' AS BLOB) WHERE bytes = CAST('manifest' AS BLOB)",
            "document app has another content: import app, ",
        ),
        ("PRAGMA foreign_keys = OFF; UPDATE image SET top = 99", "top app: import app, "),
    ] {
        let place = Place::new();
        let store = furnished(&place);
        place.execute(damage);
        assert_eq!(said(&store), [expected], "{damage}");
        assert_eq!(repair(&store).images, ["app"]);
        assert_eq!((store.images().expect("images").len(), said(&store)), (0, Vec::new()), "{damage}");
        assert_eq!(names(&store), ["high", "low", "user"], "the layers are good: gc takes them");
    }
}

#[test]
fn a_database_that_contradicts_itself_is_told() {
    let place = Place::new();
    let store = furnished(&place);
    for damage in [
        "PRAGMA foreign_keys = OFF; UPDATE snapshot SET parent = 99 WHERE name = 'user'",
        "PRAGMA ignore_check_constraints = ON; UPDATE snapshot SET parent = NULL, durable = 7 WHERE name = 'user'",
    ] {
        place.execute(damage);
        assert_eq!(said(&store), ["database: none"], "{damage}");
        assert_eq!(repair(&store), crate::store::Repaired::default());
        assert_eq!(said(&store), ["database: none"], "{damage}");
    }
}

#[test]
fn damage_is_what_was_lost() {
    let debris = [Problem::Debris { id: 1 }, Problem::Waiting { id: 1 }];
    assert!(debris.iter().all(|problem| problem.severity() == Severity::Debris));
    assert_eq!(Problem::Database { report: String::new() }.severity(), Severity::Damaged);
}
