//! The list of images, their sizes and histories.

use super::*;
use crate::image;
use crate::store::Flush;

/// Imports an image of the first `count` layers of the fixture as `name`.
fn bring(fixture: &Fixture, store: &Store, name: &str, count: usize) -> Imported {
    let (mut layout, layers) = (Oci::default(), layers());
    let entry = layout.image(&config_of(&layers[..count]), &layers[..count]);
    layout.add(Oci::name(entry, "org.opencontainers.image.ref.name", name));
    run(store, &fixture.dir(&layout.finish())).expect("import")
}

#[test]
fn what_images_stand_on_and_take() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    for (name, count) in [("base", 1), ("child", 2), ("grandchild", 3), ("same", 2)] {
        bring(&fixture, &store, name, count);
    }
    let all = summaries(&store).expect("summaries");
    let found: Vec<_> = all.iter().map(|image| (&image.image.name[..], image.base.as_deref(), image.layers)).collect();
    let expected =
        [("base", None, 1), ("child", Some("base"), 2), ("grandchild", Some("child"), 3), ("same", Some("base"), 2)];
    assert_eq!(found, expected);
    let usage = |name: &str| {
        let top = store.image(name).expect("image").top.expect("layers");
        store.usage(&top).expect("usage").size_bytes
    };
    let of = |name: &str| all.iter().find(|image| image.image.name == name).expect("image");
    assert_eq!((of("base").alone_bytes, of("base").shared_bytes), (0, usage("base")));
    assert_eq!((of("child").alone_bytes, of("child").shared_bytes), (0, usage("base") + usage("child")));
    assert_eq!(of("grandchild").alone_bytes, usage("grandchild"), "nobody else has its last layer");
}

#[test]
fn how_an_image_was_made() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    let imported = bring(&fixture, &store, "app", 3);
    let steps = history(&store, "app").expect("history");
    let made: Vec<_> = steps.iter().map(|step| step.layer.is_some()).collect();
    assert_eq!(made, [true, true, true, false]);
    assert_eq!(steps[2].layer, imported.top);
    assert_eq!(steps[0].created_by.as_deref(), Some("test"));
    assert_eq!(history(&store, "none").expect_err("no image").kind(), ErrorKind::NotFound);

    let (mut layout, layers) = (Oci::default(), layers());
    let mut config = config_of(&layers);
    config.as_object_mut().expect("an object").remove("history");
    let entry = layout.image(&config, &layers);
    layout.add(Oci::name(entry, "org.opencontainers.image.ref.name", "bare"));
    run(&store, &fixture.dir(&layout.finish())).expect("import");
    let steps = history(&store, "bare").expect("history");
    assert!(steps.len() == 3 && steps.iter().all(|step| step.layer.is_some() && step.created_by.is_none()));
}

#[test]
fn an_image_that_is_needed_stays() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    let refused = |name: &str, by: &str| {
        let error = image::remove(&store, name).expect_err("it is needed");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.chain().contains(&format!("{by:?} needs it")), "{}", error.chain());
        assert!(store.image(name).is_ok());
    };
    let base = bring(&fixture, &store, "base", 1).top.expect("a layer");
    bring(&fixture, &store, "other name", 1);
    store.prepare("container", &base, &Labels::new()).expect("prepare");
    image::remove(&store, "other name").expect("it has another name");
    refused("base", "container");
    store.remove("container").expect("remove");
    bring(&fixture, &store, "child", 2);
    refused("base", "child");
    image::remove(&store, "child").expect("nobody needs it");
    drop(store);

    // The layer of the removed child still exists, and does not block the removal of its base.
    let store = fixture.store();
    store.prepare_with("mine", &base, &Labels::new(), Flush::Now).expect("prepare");
    store.commit("my own", "mine", &Labels::new()).expect("commit");
    let error = image::remove(&store, "base").expect_err("a snapshot needs it");
    assert!(error.chain().contains("snapshot \"my own\""), "{}", error.chain());
    store.remove("my own").expect("remove");
    image::remove(&store, "base").expect("nobody needs it");
    store.gc().expect("gc");
    assert_eq!(snapshots(&store), []);
    assert_eq!(image::remove(&store, "base").expect_err("gone").kind(), ErrorKind::NotFound);
}

/// An import succeeds beside an `rmi` of the same image. (33 of 3,061 failed before a fix.)
#[test]
fn an_import_beside_a_removal_of_the_same_image() {
    const ROUNDS: usize = 150;
    let Some(fixture) = Fixture::new() else { return };
    let source = fixture.file(&archive(&docker(&["app:1"])));
    drop(fixture.store());
    let has_ended = std::sync::atomic::AtomicBool::new(false);
    let removed = std::thread::scope(|scope| {
        let remover = scope.spawn(|| {
            let mut removed = 0;
            while !has_ended.load(Ordering::Relaxed) {
                // The command `rmi` also removes the name first, then the layers.
                let store = fixture.store();
                match remove(&store, "app:1") {
                    Ok(()) => removed += 1,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain()),
                }
                store.gc().expect("gc");
            }
            removed
        });
        for round in 0..ROUNDS {
            let imported = run(&fixture.store(), &source);
            if let Err(error) = imported {
                has_ended.store(true, Ordering::Relaxed);
                panic!("round {round}: {}", error.chain());
            }
        }
        has_ended.store(true, Ordering::Relaxed);
        remover.join().expect("no panic")
    });
    crate::testing::say(&format!("{ROUNDS} imports beside {removed} removals"));
    assert!(removed > 0);
}
