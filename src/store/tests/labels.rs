//! The bounds of labels, in every call that sets labels.

use super::*;
use crate::snapshotter::Info;
use crate::store::{LABEL_BYTES_MAX, LABELS_BYTES_MAX};

const INVALID: Option<ErrorKind> = Some(ErrorKind::InvalidArgument);

/// `number` labels of the most bytes that a label may have; their names begin with `prefix`.
fn many(prefix: char, number: usize) -> Labels {
    let label = |number| (format!("{prefix}{number:07}"), "v".repeat(LABEL_BYTES_MAX - 8));
    (0..number).map(label).collect()
}

fn update(store: &Store, labels: Labels, names: &[&str]) -> Result<Info> {
    let info = Info { labels, ..store.stat("key").expect("stat") };
    let paths: Vec<_> = names.iter().map(|name| format!("labels.{name}")).collect();
    store.update(&info, &paths.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_label_and_all_labels_have_an_end() {
    let (place, most) = (Place::new(), LABELS_BYTES_MAX / LABEL_BYTES_MAX);
    let store = place.store();
    let long = Labels::from([("name".to_owned(), "v".repeat(LABEL_BYTES_MAX - 3))]);
    store.prepare("key", "", NONE).expect("prepare");
    for labels in [&long, &many('a', most + 1)] {
        assert_eq!(kind(store.prepare("new", "", labels)), INVALID);
        assert_eq!(kind(store.view("new", "", labels)), INVALID);
        assert_eq!(kind(store.commit("new", "key", labels)), INVALID);
        assert_eq!(kind(update(&store, labels.clone(), &[])), INVALID);
    }
    assert_eq!(kind(update(&store, long, &["name"])), INVALID);
    assert_eq!(names(&store), ["key"]);
    update(&store, many('a', most), &[]).expect("as many as may be");
    store.prepare("new", "", &many('a', most)).expect("as many as may be");
}

/// Each update alone stays within the bound.
#[test]
fn labels_do_not_grow_beyond_their_end_by_many_updates() {
    let (place, most) = (Place::new(), LABELS_BYTES_MAX / LABEL_BYTES_MAX);
    let store = place.store();
    store.prepare("key", "", &many('a', most)).expect("prepare");
    assert_eq!(kind(update(&store, many('b', 1), &["b0000000"])), INVALID);
    assert_eq!(store.stat("key").expect("stat").labels, many('a', most), "nothing changed");
}

/// A snapshot of an earlier release may have more bytes of labels. Its labels can be read, and removed one by one.
#[test]
fn labels_beyond_their_end_can_be_removed() {
    let (place, most) = (Place::new(), LABELS_BYTES_MAX / LABEL_BYTES_MAX);
    let store = place.store();
    store.prepare("key", "", &many('a', most)).expect("prepare");
    place.execute("INSERT INTO label SELECT snapshot, 'b' || name, value FROM label");
    assert_eq!(store.stat("key").expect("stat").labels.len(), 2 * most);
    update(&store, many('b', 0), &["a0000000"]).expect("remove a label");
    assert_eq!(kind(update(&store, many('c', 1), &["c0000000"])), INVALID);
    assert_eq!(store.stat("key").expect("stat").labels.len(), 2 * most - 1);
}

/// SQLite's functions on texts stop at a NUL byte. Stored and compared texts do not.
#[test]
fn a_label_is_not_cut_at_a_nul_byte() {
    let place = Place::new();
    let store = place.store();
    let labels = Labels::from([("name\0of".to_owned(), "v\0w".to_owned())]);
    store.prepare("key", "", &labels).expect("prepare");
    store.commit("done", "key", &labels).expect("commit");
    assert_eq!(store.stat("done").expect("stat").labels, labels);
    let mut updated = store.stat("done").expect("stat");
    updated.labels = Labels::from([("name\0of".to_owned(), "v\0x".to_owned())]);
    let after = store.update(&updated, &["labels.name\0of"]).expect("update");
    assert_eq!(after.labels, updated.labels);
    let found = |filter: &str| {
        let mut found = Vec::new();
        let listed = store.walk(&[filter], &mut |info| {
            found.push(info.name.clone());
            Ok(())
        });
        listed.map(|()| found)
    };
    assert_eq!(found("labels.\"name\0of\"==\"v\0x\"").expect("walk"), ["done"]);
    assert!(found("labels.\"name\0of\"==v").is_ok_and(|found| found.is_empty()));
}
