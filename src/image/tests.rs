//! Imports of small images, whole and damaged.

mod export;
mod fixture;
mod inventory;
mod kinds;
mod strangers;

use std::cell::RefCell;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::door::IngestOptions;
use crate::error::Result;
use crate::id::Digest;
use crate::snapshotter::{Kind, Labels, Snapshotter};
use crate::store::Store;
use crate::task::Cancel;
use fixture::*;

#[test]
fn every_form() {
    let Some(fixture) = Fixture::new() else { return };
    for content in [oci("app:1"), docker(&["app:1"])] {
        let archive = archive(&content);
        let sources = [
            fixture.dir(&content),
            fixture.file(&archive),
            fixture.file(&gzip(&archive)),
            fixture.file(&zstd(&archive)),
            pipe(archive.clone()),
            pipe(gzip(&archive)),
            source(Place::Open(match fixture.file(&archive).place {
                Place::Path(path) => File::open(path).expect("open"),
                Place::Open(file) => file,
            })),
        ];
        for source in sources {
            let store = fixture.store();
            let imported = run(&store, &source).unwrap_or_else(|error| panic!("{source:?}: {}", error.chain()));
            assert_eq!((imported.name.as_str(), imported.unpacked), ("app:1", 3), "{source:?}");
            check(&store, &imported);
            store.remove_image("app:1").expect("remove");
            // A handle holds the layers that it imported until it is dropped.
            drop(store);
            fixture.store().gc().expect("gc");
            assert_eq!(snapshots(&fixture.store()), []);
            let streams = fs::read_dir(fixture.scratch.path().join("store/streams")).expect("streams");
            assert_eq!(streams.count(), 0, "with a layer goes how it was spelled");
        }
    }
}

#[test]
fn what_is_there_is_not_read_again() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    let content = oci("app:1");
    run(&store, &fixture.dir(&content)).expect("first");
    let mut renamed = oci("app:2");
    renamed.retain(|_, bytes| !layers().iter().any(|layer| COMPRESSIONS.iter().any(|(_, how)| how(layer) == *bytes)));
    assert_eq!(renamed.len() + 3, content.len(), "the blobs of the layers are gone");
    let again = run(&store, &fixture.dir(&renamed)).expect("second");
    assert_eq!((again.name.as_str(), again.unpacked), ("app:2", 0));
    check(&store, &again);
    assert_eq!(store.images().expect("images").len(), 2);
    // Another image takes the name.
    let options = Options { name: Some("app:2".into()), ..Options::default() };
    let mut oci = Oci::default();
    let other = oci.image(&config_of(&layers()[..1]), &layers()[..1]);
    oci.add(other);
    let moved = import(&store, &fixture.dir(&oci.finish()), &options, &()).expect("moved");
    assert_eq!((moved.layers, moved.unpacked), (1, 0));
    assert_eq!(store.image("app:2").expect("image").config, moved.id);
}

#[test]
fn the_choice_of_an_image() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    let mut oci = Oci::default();
    let mut digests = Vec::new();
    for (number, layer) in layers().into_iter().enumerate() {
        let image = oci.image(&config_of(std::slice::from_ref(&layer)), &[layer]);
        digests.push(image["digest"].as_str().expect("digest").to_owned());
        oci.add(match number {
            0 => Oci::name(image, "org.opencontainers.image.ref.name", "app:0"),
            1 => {
                let named = Oci::name(image, "io.containerd.image.name", "registry.test/app:tag");
                Oci::name(named, "org.opencontainers.image.ref.name", "tag")
            }
            _ => image,
        });
    }
    let mut source = fixture.dir(&oci.finish());
    let several = run(&store, &source).expect_err("three images");
    assert_eq!(several.kind(), ErrorKind::InvalidArgument);
    for name in ["app:0", "registry.test/app:tag", &digests[2]] {
        assert!(several.chain().contains(name), "{name}: {}", several.chain());
    }
    for (reference, name) in
        [("app:0", "app:0"), ("tag", "registry.test/app:tag"), ("registry.test/app:tag", "registry.test/app:tag")]
    {
        source.reference = Some(reference.into());
        assert_eq!(run(&store, &source).expect(reference).name, name);
    }
    source.reference = Some(digests[2].clone());
    let unnamed = run(&store, &source).expect("by digest");
    assert_eq!(unnamed.name, unnamed.id.to_string(), "the image ID, where there is no name");
    source.reference = Some("app".into());
    let unknown = run(&store, &source).expect_err("no such name");
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert!(unknown.chain().contains("app:0"), "{}", unknown.chain());
}

#[test]
fn the_choice_of_a_platform() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    let mut oci = Oci::default();
    let host = Platform::host();
    let foreign = if host.architecture == "arm" { "amd64" } else { "arm" };
    let platforms = [
        ("unknown/unknown".to_owned(), 0),
        (format!("linux/{foreign}/v6"), 1),
        (format!("linux/{foreign}/v7"), 2),
        (host.to_string(), 0),
    ];
    let mut entries = Vec::new();
    for (name, layer) in &platforms {
        let platform: Platform = name.parse().expect("platform");
        let layer = layers()[*layer].clone();
        let mut config = config_of(std::slice::from_ref(&layer));
        config["architecture"] = platform.architecture.clone().into();
        let mut image = oci.image(&config, &[layer]);
        image["platform"] = json!({"os": platform.os, "architecture": platform.architecture});
        if let Some(variant) = platform.variant {
            image["platform"]["variant"] = variant.into();
        }
        entries.push(image);
    }
    let mut attestation = Oci::name(entries[3].clone(), "vnd.docker.reference.type", "attestation-manifest");
    attestation["digest"] = digest(b"not there").into();
    entries.insert(0, attestation);
    let nested = oci.document(&format!("{OCI}.index.v1+json"), &json!({"schemaVersion": 2, "manifests": entries}));
    let mut flat = oci.clone();
    oci.add(Oci::name(nested, "org.opencontainers.image.ref.name", "app"));
    entries.into_iter().for_each(|entry| flat.add(Oci::name(entry, "org.opencontainers.image.ref.name", "app")));
    for source in [fixture.dir(&oci.finish()), fixture.dir(&flat.finish())] {
        let top = |platform: Option<&str>| {
            let platform = platform.map(|platform| platform.parse().expect("platform"));
            import(&store, &source, &Options { platform, ..Options::default() }, &()).map(|image| image.top)
        };
        let expected = |layer: usize| Some(digest(&layers()[layer]));
        assert_eq!(top(None).expect("host"), expected(0));
        assert_eq!(top(Some(&format!("linux/{foreign}/v6"))).expect("v6"), expected(1));
        if foreign == "arm" {
            assert_eq!(top(Some("linux/arm")).expect("the usual variant"), expected(2));
        }
        let missing = top(Some("linux/s390x")).expect_err("not built for that");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.chain().contains(&format!("linux/{foreign}/v6")), "{}", missing.chain());
    }
    // The only image is for another platform than the requested one.
    let options = Options { platform: Some("linux/s390x".parse().expect("platform")), ..Options::default() };
    let error = import(&store, &fixture.dir(&docker(&["app:1"])), &options, &()).expect_err("another platform");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// Replaces `old` by `new` in a document, and updates the digests up to the index.
fn edit(content: &Content, old: &str, new: &str) -> Content {
    let mut content = content.clone();
    let mut changes = vec![(old.to_owned(), new.to_owned())];
    while let Some((old, new)) = changes.pop() {
        let hit = content.iter().find(|(path, bytes)| {
            path.as_str() != "oci-layout"
                && bytes.first() == Some(&b'{')
                && String::from_utf8_lossy(bytes).contains(&old)
        });
        let (path, bytes) = hit.map(|(path, bytes)| (path.clone(), bytes.clone())).expect(&old);
        let text = String::from_utf8(bytes.clone()).expect("document").replace(&old, &new);
        content.remove(&path);
        if path.starts_with("blobs/") {
            let path = digest(text.as_bytes()).replace("sha256:", "blobs/sha256/");
            changes.push((
                format!("\"{}\",\"mediaType\"", digest(&bytes)),
                format!("\"{}\",\"mediaType\"", digest(text.as_bytes())),
            ));
            if bytes.len() != text.len() {
                changes.push((format!("\"size\":{}", bytes.len()), format!("\"size\":{}", text.len())));
            }
            content.insert(path, text.into_bytes());
        } else {
            content.insert(path, text.into_bytes());
        }
    }
    content
}

/// One damage: its name, the damaged files, the kind of the error and a text that the error must contain.
type Damage = (&'static str, Content, ErrorKind, String);

fn damages() -> Vec<Damage> {
    let good = oci("app:1");
    let blob = |number: usize| {
        let bytes = COMPRESSIONS[number].1(&layers()[number]);
        (digest(&bytes).replace("sha256:", "blobs/sha256/"), bytes)
    };
    let replace = |path: &str, bytes: Vec<u8>| {
        let mut content = good.clone();
        assert!(content.insert(path.to_owned(), bytes).is_some(), "{path}");
        content
    };
    let without = |path: &str| {
        let mut content = good.clone();
        assert!(content.remove(path).is_some(), "{path}");
        content
    };
    let (path, bytes) = blob(2);
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        bytes
    };
    let truncated = bytes[..bytes.len() - 1].to_vec();
    // This blob decompresses to the same stream, so that only the check of the blob's digest can fail.
    let mut other_blob = blob(1).1;
    other_blob[4] ^= 1;
    let config = digest(config_of(&layers()).to_string().as_bytes()).replace("sha256:", "blobs/sha256/");
    let damaged_config = String::from_utf8_lossy(&good[&config]).replace("/bin/sh", "/bin/xx").into_bytes();
    let mut other_docker = docker(&["app:1"]);
    let docker_config = config.replace("blobs/sha256/", "") + ".json";
    assert!(other_docker.insert(docker_config, damaged_config.clone()).is_some());
    let last = digest(&layers()[2]);
    let other = digest(b"other");
    let lost = ErrorKind::DataLoss;
    vec![
        ("a flipped bit in a layer", replace(&path, flipped(bytes.len() / 2)), lost, "layer 3 of 3".into()),
        ("another blob of the same length", replace(&blob(1).0, other_blob), lost, "layer 2 of 3".into()),
        ("a shorter blob", replace(&path, truncated), lost, format!("the manifest says {}", bytes.len())),
        ("a missing blob", without(&path), lost, path.clone()),
        ("a wrong DiffID", edit(&good, &last, &other), lost, format!("{last}, the config says {other}")),
        ("a missing index", without("index.json"), lost, "index.json".into()),
        ("a damaged config", replace(&config, damaged_config), lost, digest(&good[&config])),
        ("a damaged config of docker's", other_docker, lost, "is damaged".into()),
        ("no JSON", replace("index.json", b"{".to_vec()), lost, "index.json".into()),
        (
            "another version",
            replace("oci-layout", br#"{"imageLayoutVersion":"2"}"#.to_vec()),
            ErrorKind::Unsupported,
            "\"2\"".into(),
        ),
        ("an unknown layer", edit(&good, "v1.tar+zstd", "v1.tar+rar"), ErrorKind::Unsupported, "tar+rar".into()),
        ("no image's config", edit(&good, "image.config", "artifact"), ErrorKind::Unsupported, "artifact".into()),
        (
            "a manifest that is an index too",
            edit(&good, "\"schemaVersion\":2}", "\"schemaVersion\":2,\"manifests\":[]}"),
            lost,
            "something else".into(),
        ),
        ("another rootfs", edit(&good, "\"type\":\"layers\"", "\"type\":\"lawyers\""), lost, "lawyers".into()),
        (
            "a digest that is a path",
            edit(&good, &format!("\"digest\":\"{}", digest(&bytes)), "\"digest\":\"sha256:../../../etc/passwd"),
            ErrorKind::InvalidArgument,
            "no digest".into(),
        ),
        ("nothing", Content::new(), ErrorKind::InvalidArgument, "oci-layout".into()),
    ]
}

#[test]
fn damage_is_named_and_leaves_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    for (what, content, kind, named) in damages() {
        for source in [fixture.dir(&content), fixture.file(&archive(&content))] {
            let Place::Path(path) = &source.place else { continue };
            fs::create_dir_all(path).unwrap_or_default();
            let store = fixture.store();
            let error = run(&store, &source).expect_err(what);
            assert_eq!(error.kind(), kind, "{what}: {}", error.chain());
            assert!(error.chain().contains(&named), "{what}: {} should name {named}", error.chain());
            assert_eq!(store.images().expect("images"), [], "{what}");
            assert!(snapshots(&store).iter().all(|(kind, _)| *kind == Kind::Committed), "{what}: an extraction stayed");
            assert!(snapshots(&store).len() < 3, "{what}: the damaged layer was committed");
            drop(store);
            fixture.store().gc().expect("gc");
        }
    }
}

#[test]
fn archives_cut_anywhere() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    for content in [oci("app:1"), docker(&["app:1"])] {
        let whole = archive(&content);
        // An archive without the zero blocks at the end, and without the padding before them, has all its content.
        let padding = content.values().last().map_or(0, |last| last.len().next_multiple_of(512) - last.len());
        let end = whole.len() - 1024 - padding;
        run(&store, &fixture.file(&whole[..end])).expect("all content is there");
        store.remove_image("app:1").expect("remove");
        // The marker of a layout, its last member, may be missing.
        let without_marker = content.iter().filter(|(path, _)| *path != layout::MARKER);
        let marker = archive(&without_marker.map(|(path, bytes)| (path.clone(), bytes.clone())).collect()).len() - 1024;
        let is_whole = |length: &usize| (marker - 511..=marker).contains(length);
        let lengths = (0..end).step_by(end / 97).chain([1, 511, 512, 513, end - 1]);
        for length in lengths.filter(|length| !is_whole(length)) {
            let error = run(&store, &fixture.file(&whole[..length])).expect_err("cut");
            let expected = [ErrorKind::DataLoss, ErrorKind::InvalidArgument];
            assert!(expected.contains(&error.kind()), "{length} of {end}: {}", error.chain());
        }
        assert_eq!(store.images().expect("images"), []);
    }
    let garbage = run(&store, &fixture.file(&[b'x'; 4096])).expect_err("no archive");
    assert_eq!(garbage.kind(), ErrorKind::DataLoss);
    let xz = run(&store, &fixture.file(b"\xfd7zXZ\0\0\0\0\0")).expect_err("xz");
    assert_eq!(xz.kind(), ErrorKind::Unsupported);
    assert!(xz.chain().contains("xz"), "{}", xz.chain());
    let missing = run(&store, &source(Place::Path(fixture.path()))).expect_err("nothing there");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[test]
fn a_spool_has_a_limit() {
    let Some(fixture) = Fixture::new() else { return };
    let (store, archive) = (fixture.store(), archive(&oci("app:1")));
    let options = Options { spool_bytes_max: archive.len() as u64 - 1, ..Options::default() };
    let error = import(&store, &pipe(archive.clone()), &options, &()).expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.chain().contains(&options.spool_bytes_max.to_string()), "{}", error.chain());
    import(&store, &fixture.file(&archive), &options, &()).expect("a file is not spooled");
}

#[test]
fn docker_archives() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    // Equal layers are links to each other, in the old form, and the list of several images names them by tags.
    let layer = tar(&[("etc/x", b"x")]);
    let configs = [config_of(std::slice::from_ref(&layer)), config_of(&[layer.clone(), layer.clone()])];
    let list: Vec<Value> = [("a.json", json!(["a:1", "a:2"]), 1), ("b.json", Value::Null, 2)]
        .map(|(config, tags, layers)| {
            let paths: Vec<String> = (0..layers).map(|at| format!("{at}/layer.tar")).collect();
            json!({"Config": config, "RepoTags": tags, "Layers": paths})
        })
        .to_vec();
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = ::tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, bytes).expect("tar");
    };
    add("manifest.json", Value::from(list).to_string().as_bytes());
    add("a.json", configs[0].to_string().as_bytes());
    add("b.json", configs[1].to_string().as_bytes());
    add("0/layer.tar", &gzip(&layer));
    let mut header = ::tar::Header::new_ustar();
    header.set_entry_type(::tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "1/layer.tar", "../0/layer.tar").expect("tar");
    let mut source = fixture.file(&builder.into_inner().expect("tar"));
    let several = run(&store, &source).expect_err("two images");
    assert_eq!(several.kind(), ErrorKind::InvalidArgument);
    let id = digest(configs[1].to_string().as_bytes());
    assert!(several.chain().contains("a:1") && several.chain().contains(&id), "{}", several.chain());
    source.reference = Some("a:2".into());
    assert_eq!(run(&store, &source).expect("by tag").name, "a:1", "the first tag is the name");
    source.reference = Some(id.clone());
    let imported = run(&store, &source).expect("by ID");
    assert_eq!((imported.name.as_str(), imported.layers, imported.unpacked), (id.as_str(), 2, 1));
    let manifest: Value = serde_json::from_slice(&store.document(imported.manifest).expect("manifest")).expect("JSON");
    let blob = gzip(&layer);
    assert_eq!(manifest["layers"][1]["mediaType"], format!("{OCI}.layer.v1.tar+gzip"));
    assert_eq!(manifest["layers"][1]["digest"], digest(&blob));
    assert_eq!(manifest["layers"][1]["size"], blob.len());
    assert_eq!(manifest["config"]["digest"], id);
    assert_eq!(run(&store, &source).expect("again").manifest, imported.manifest, "the same for the same archive");
}

/// Links lead to members of the archive, and circles of links are an error.
#[test]
fn links_in_archives() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    let content = docker(&["app:1"]);
    let layer = format!("{:064}/layer.tar", 0);
    let cases = [
        (::tar::EntryType::Symlink, "../moved", None),
        (::tar::EntryType::Symlink, "/moved", None),
        (::tar::EntryType::Link, "moved", None),
        (::tar::EntryType::Symlink, "layer.tar", Some(ErrorKind::DataLoss)),
        (::tar::EntryType::Symlink, "../../moved", Some(ErrorKind::DataLoss)),
        (::tar::EntryType::Symlink, "/etc/passwd", Some(ErrorKind::DataLoss)),
    ];
    for (kind, target, expected) in cases {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (path, bytes) in &content {
            let mut header = ::tar::Header::new_gnu();
            let path = if *path == layer { "moved" } else { path };
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path, &bytes[..]).expect("tar");
        }
        let mut header = ::tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, &layer, target).expect("tar");
        let imported = run(&store, &fixture.file(&builder.into_inner().expect("tar")));
        assert_eq!(imported.err().map(|error| error.kind()), expected, "{kind:?} to {target}");
    }
}

/// Cancels the import when the given number of bytes was read.
struct StopAt<'a>(u64, &'a Cancel, AtomicU64);

impl Progress for StopAt<'_> {
    fn read(&self, _: &Layer, bytes: u64) {
        if self.2.fetch_add(bytes, Ordering::Relaxed) + bytes >= self.0 {
            self.1.request();
        }
    }
}

fn until(cancel: &Cancel) -> Options {
    let ingest = IngestOptions { cancel: cancel.clone(), ..IngestOptions::default() };
    Options { ingest, ..Options::default() }
}

#[test]
fn a_cancelled_import_leaves_whole_layers_only() {
    let Some(fixture) = Fixture::new() else { return };
    let first = layers()[0].len() as u64;
    let archive = archive(&oci("app:1"));
    for (bytes, kept) in [(1, 0), (first, 0), (first + 1, 1)] {
        let store = fixture.store();
        let cancel = Cancel::default();
        let options = until(&cancel);
        let progress = StopAt(bytes, &cancel, AtomicU64::new(0));
        let error = import(&store, &fixture.file(&archive), &options, &progress).expect_err("cancelled");
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", error.chain());
        assert_eq!(snapshots(&store).len(), kept, "after {bytes} bytes");
        assert_eq!(store.images().expect("images"), []);
    }
    let cancel = Cancel::default();
    cancel.request();
    let options = until(&cancel);
    let spooled = import(&fixture.store(), &pipe(archive.clone()), &options, &()).expect_err("cancelled");
    assert_eq!(spooled.kind(), ErrorKind::Cancelled);
    // The manifest of a docker archive is made by strata, which reads compressed layers for their digests.
    let mut saved = docker(&["app:1"]);
    let path = format!("{:064}/layer.tar", 0);
    saved.insert(path.clone(), gzip(&saved[&path]));
    let error =
        import(&fixture.store(), &fixture.file(&fixture::archive(&saved)), &options, &()).expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(error.chain().contains(&format!("read {path}: ")), "{}", error.chain());
    let store = fixture.store();
    check(&store, &run(&store, &fixture.file(&archive)).expect("afterwards"));
}

#[test]
fn what_an_ended_process_left_goes() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    store.prepare("named", "", &Labels::new()).expect("prepare");
    store.prepare_layer("import-1", "").expect("prepare");
    store.apply("import-1", &mut |_| Ok(())).expect("apply");
    let other = fixture.store();
    other.prepare("other", "", &Labels::new()).expect("prepare");
    other.gc().expect("gc");
    assert_eq!(snapshots(&other).len(), 3, "it is at work");
    drop((store, other));
    let store = fixture.store();
    store.gc().expect("gc");
    let left: Vec<String> = snapshots(&store).into_iter().map(|(_, name)| name).collect();
    assert_eq!(left, ["named", "other"]);
}

/// Records the calls of the progress.
#[derive(Default)]
struct Notes(Mutex<RefCell<Vec<String>>>);

impl Notes {
    fn note(&self, what: String) {
        self.0.lock().expect("lock").borrow_mut().push(what);
    }

    fn take(&self) -> Vec<String> {
        self.0.lock().expect("lock").take()
    }
}

impl Progress for Notes {
    fn present(&self, layer: &Layer) {
        self.note(format!("present {}/{}", layer.number, layer.total));
    }

    fn started(&self, layer: &Layer) {
        self.note(format!("started {} of {} bytes", layer.number, layer.size_bytes));
    }

    fn read(&self, layer: &Layer, bytes: u64) {
        if bytes > 0 {
            self.note(format!("read {}: {bytes}", layer.number));
        }
    }

    fn done(&self, layer: &Layer) {
        self.note(format!("done {}", layer.number));
    }
}

#[test]
fn progress_adds_up() {
    let Some(fixture) = Fixture::new() else { return };
    let (store, notes) = (fixture.store(), Notes::default());
    let source = fixture.dir(&oci("app:1"));
    import(&store, &source, &Options::default(), &notes).expect("import");
    let said = notes.take();
    for number in 1..=3 {
        let size = COMPRESSIONS[number - 1].1(&layers()[number - 1]).len() as u64;
        let prefix = format!("read {number}: ");
        let read: u64 = said
            .iter()
            .filter_map(|line| line.strip_prefix(&prefix))
            .map(|bytes| bytes.parse::<u64>().expect("bytes"))
            .sum();
        assert_eq!(read, size, "layer {number}: {said:?}");
        assert!(said.contains(&format!("started {number} of {size} bytes")), "{said:?}");
        assert!(said.contains(&format!("done {number}")), "{said:?}");
    }
    import(&store, &source, &Options::default(), &notes).expect("again");
    assert_eq!(notes.take(), ["present 1/3", "present 2/3", "present 3/3"]);
}

#[test]
fn imports_at_the_same_time() {
    let Some(fixture) = Fixture::new() else { return };
    let source = fixture.file(&archive(&oci("app:1")));
    for _ in 0..5 {
        let stores: Vec<Store> = (0..4).map(|_| fixture.store()).collect();
        std::thread::scope(|scope| {
            let imports: Vec<_> = stores.iter().map(|store| scope.spawn(|| run(store, &source))).collect();
            for import in imports {
                check_result(import.join().expect("thread"));
            }
        });
        check(&stores[0], &run(&stores[0], &source).expect("again"));
        stores[0].remove_image("app:1").expect("remove");
        drop(stores);
        fixture.store().gc().expect("gc");
    }
}

fn check_result(imported: Result<Imported>) {
    if let Err(error) = imported {
        panic!("{}", error.chain());
    }
}

#[test]
fn a_name_that_is_taken() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    let name = digest(&layers()[0]);
    store.prepare("mine", "", &Labels::new()).expect("prepare");
    store.commit(&name, "mine", &Labels::new()).expect("commit");
    let error = run(&store, &fixture.dir(&oci("app:1"))).expect_err("not that layer");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.chain().contains(&name), "{}", error.chain());
}

#[test]
fn references() {
    let Some(fixture) = Fixture::new() else { return };
    let root = fixture.scratch.path();
    for name in ["plain", "with:colon", "with:colon:twice"] {
        fs::write(root.join(name), b"").expect("write");
    }
    let split = |text: &str| {
        let Written { form, path, reference } = split_reference(root.join(text).as_os_str());
        assert_eq!(form, None, "{text}");
        (path.strip_prefix(root).expect("below").to_string_lossy().into_owned(), reference)
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(split("plain"), ("plain".into(), None));
    assert_eq!(split("plain:registry.test/app:1"), ("plain".into(), some("registry.test/app:1")));
    assert_eq!(split("with:colon"), ("with:colon".into(), None));
    assert_eq!(split("with:colon:1"), ("with:colon".into(), some("1")));
    assert_eq!(split("with:colon:twice:1"), ("with:colon:twice".into(), some("1")));
    assert_eq!(split("with:other"), ("with:other".into(), None));
    let written =
        |form, path: PathBuf, reference: Option<&str>| Written { form, path, reference: reference.map(str::to_owned) };
    assert_eq!(split_reference("-".as_ref()), written(None, "-".into(), None));
    let with_form = |text: &str| split_reference(text.replace('@', &root.display().to_string()).as_ref());
    let (oci, docker) = (Some(Form::Oci), Some(Form::Docker));
    assert_eq!(with_form("oci:@/plain:app:1"), written(oci, root.join("plain"), Some("app:1")));
    assert_eq!(with_form("oci-archive:@/plain"), written(oci, root.join("plain"), None));
    assert_eq!(with_form("docker-archive:@/with:colon"), written(docker, root.join("with:colon"), None));
    assert_eq!(with_form("tar:@/plain"), written(None, format!("tar:{}/plain", root.display()).into(), None));
    assert_eq!(split_reference("-:app:1".as_ref()), written(None, "-".into(), Some("app:1")));
    assert_eq!(split_reference("docker-archive:-".as_ref()), written(docker, "-".into(), None));
}
