//! Images, their documents, and the layers that `gc` must keep for them.

use super::*;
use crate::id::Digest;
use crate::store::{CommitOptions, NewImage, Origin};

/// The layer `name`, as an importer leaves it before the image has a name.
fn layer(store: &Store, name: &str, parent: &str) {
    store.prepare_with("making", parent, NONE, Flush::Later).expect("prepare");
    let options = CommitOptions { flush: Flush::Later, origin: Origin::Image, diff_id: None };
    store.commit_with(name, "making", NONE, options).expect("commit");
}

fn image<'a>(name: &'a str, config: &'a str, top: Option<&'a str>) -> NewImage<'a> {
    NewImage { name, config: config.as_bytes(), manifest: b"manifest", top }
}

#[test]
fn an_image_keeps_its_layers_and_documents() {
    let place = Place::new();
    let store = place.store();
    layer(&store, "one", "");
    layer(&store, "two", "one");
    store.set_image(&image("first", "config 1", Some("two"))).expect("set");
    store.set_image(&image("second", "config 2", Some("one"))).expect("set");
    committed(&store, "named", "two", Flush::Now);
    store.gc().expect("gc");
    assert_eq!(names(&store), ["named", "one", "two"]);
    assert_eq!(kind(store.remove("one")), Some(ErrorKind::FailedPrecondition), "it has a child");
    let found = store.image("first").expect("image");
    assert_eq!((found.top.as_deref(), found.config), (Some("two"), Digest::of(b"config 1")));
    assert_eq!(store.document(found.config).expect("document"), b"config 1");
    assert_eq!(store.images().expect("images").len(), 2);
    // The name moves to another image, and the documents of the old image are removed.
    store.set_image(&image("first", "config 3", Some("one"))).expect("set");
    assert_eq!(kind(store.document(found.config)), Some(ErrorKind::NotFound));
    assert_eq!(place.count("document"), 3);
    store.gc().expect("gc");
    assert_eq!(names(&store), ["named", "one", "two"], "what a user named stands on it");
    store.remove("named").expect("remove");
    store.gc().expect("gc");
    assert_eq!(names(&store), ["one"]);
    let error = store.remove("one").expect_err("an image needs it");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    for name in ["first", "second"] {
        store.remove_image(name).expect("remove");
        assert_eq!(kind(store.remove_image(name)), Some(ErrorKind::NotFound));
    }
    assert_eq!(place.count("document"), 0);
    assert_eq!(store.gc().expect("gc").snapshots, 1);
    assert_eq!(place.ids(), []);
}

#[test]
fn layers_without_an_image_yet_are_held_by_their_process() {
    let place = Place::new();
    let importer = place.store();
    layer(&importer, "one", "");
    place.store().gc().expect("gc");
    assert_eq!(names(&importer), ["one"]);
    drop(importer);
    let store = place.store();
    store.gc().expect("gc");
    assert_eq!(names(&store), Vec::<String>::new(), "nobody needs it any more");
}

#[test]
fn an_image_is_durable_with_all_below() {
    let place = Place::new();
    let store = place.store();
    layer(&store, "one", "");
    layer(&store, "two", "one");
    store.set_image(&image("image", "config", Some("two"))).expect("set");
    drop(store);
    place.reboot();
    let store = place.store();
    store.gc().expect("gc");
    assert_eq!(names(&store), ["one", "two"]);
    assert_eq!(store.images().expect("images").len(), 1);
}

#[test]
fn an_image_stands_on_a_committed_snapshot() {
    let place = Place::new();
    let store = place.store();
    store.prepare("active", "", NONE).expect("prepare");
    assert_eq!(kind(store.set_image(&image("image", "config", Some("active")))), Some(ErrorKind::InvalidArgument));
    assert_eq!(kind(store.set_image(&image("image", "config", Some("nothing")))), Some(ErrorKind::NotFound));
    assert_eq!(kind(store.set_image(&image("", "config", None))), Some(ErrorKind::InvalidArgument));
    store.set_image(&image("empty", "config", None)).expect("an image without layers");
    assert_eq!(place.count("document"), 2);
}

#[test]
fn a_damaged_document_is_not_handed_out() {
    let place = Place::new();
    let store = place.store();
    store.set_image(&image("image", "config", None)).expect("set");
    place.execute("UPDATE document SET bytes = x'00'");
    assert_eq!(kind(store.document(Digest::of(b"config"))), Some(ErrorKind::DataLoss));
}

/// An unfinished layer is removed however its process ends, even after a failed commit.
#[test]
fn a_layer_in_the_making_goes_with_its_process() {
    let place = Place::new();
    let store = place.moving(During::failing("seal", |_| ()));
    store.prepare_layer("making", "").expect("prepare");
    assert!(store.commit("name", "making", NONE).is_err());
    place.store_during(During::nothing()).gc().expect("gc beside it");
    assert_eq!(names(&store), ["making"]);
    drop(store);
    let store = place.store();
    store.gc().expect("gc");
    assert_eq!((names(&store), place.ids()), (vec![], vec![]));
}
