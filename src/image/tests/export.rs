//! Exports: kept content, refused destinations, and remains after a failure.

use std::path::Path;

use super::*;
use crate::changeset::blob::Compression;
use crate::task::Cancel;

fn plain() -> ExportOptions {
    ExportOptions { compression: Compression::None, ..ExportOptions::default() }
}

fn written(store: &Store, form: &str, path: &Path, options: &ExportOptions) -> Result<Exported> {
    let destination = Destination::parse(format!("{form}:{}", path.display()).as_ref()).expect("a destination");
    export(store, "app:1", &destination, options, &())
}

/// Returns the document `digest` of an exported layout.
fn document(layout: &Path, digest: &Value) -> Value {
    let path = digest.as_str().expect("a digest").replace("sha256:", "blobs/sha256/");
    serde_json::from_slice(&fs::read(layout.join(path)).expect("read")).expect("JSON")
}

#[test]
fn every_form_comes_back_as_the_same_image() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    let imported = run(&store, &fixture.dir(&oci("app:1"))).expect("import");
    for form in ["oci", "oci-archive", "docker-archive"] {
        for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
            let path = fixture.path();
            let options = ExportOptions { compression, ..ExportOptions::default() };
            let exported = written(&store, form, &path, &options).unwrap_or_else(|error| panic!("{}", error.chain()));
            assert_eq!((exported.id, exported.layers), (imported.id, 3), "{form}");
            // A second export to the same path replaces a file, but refuses a directory that is not empty.
            assert_eq!(written(&store, form, &path, &options).is_ok(), form != "oci");
            let root = fixture.scratch.path().join(format!("store-{form}-{compression:?}"));
            let config = Config { root, ..Config::new(fixture.path()) };
            let other = backends::open(&Config { backend: Some(COPY), ..config }).expect("store");
            let again = run(&other, &source(Place::Path(path))).expect("import again");
            assert_eq!((again.name.as_str(), again.id, again.unpacked), ("app:1", imported.id, 3), "{form}");
            check(&other, &again);
        }
    }
}

#[test]
fn what_strata_does_not_know_is_kept() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    let (mut layout, layers) = (Oci::default(), layers());
    layout.image(&config_of(&layers), &layers);
    let config = layout.document(&format!("{OCI}.config.v1+json"), &config_of(&layers));
    let described = |layer: &Vec<u8>| {
        json!({
            "mediaType": format!("{OCI}.layer.v1.tar"), "digest": digest(layer), "size": layer.len(), "urls": ["x"],
            "annotations": {"mine": "1", "containerd.io/snapshot/stargz/toc.digest": "2"},
        })
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": format!("{OCI}.manifest.v1+json"), "config": config,
        "layers": layers.iter().map(described).collect::<Vec<_>>(), "annotations": {"a": "b"}, "x-stranger": [1.50, null],
    });
    layers.iter().for_each(|layer| drop(layout.blob("", layer)));
    let entry = layout.document(&format!("{OCI}.manifest.v1+json"), &manifest);
    layout.add(Oci::name(entry, "org.opencontainers.image.ref.name", "app:1"));
    let imported = run(&store, &fixture.dir(&layout.finish())).expect("import");

    let same = fixture.path();
    let exported = written(&store, "oci", &same, &plain()).expect("export");
    assert_eq!(exported.manifest, Some(imported.manifest), "with the blobs that it came with, byte for byte");
    let index: Value = serde_json::from_slice(&fs::read(same.join("index.json")).expect("index")).expect("JSON");
    let entry = &index["manifests"][0];
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "app:1");
    assert_eq!(document(&same, &entry["digest"]), manifest);

    let other = fixture.path();
    let exported = written(&store, "oci", &other, &ExportOptions::default()).expect("export");
    let made = document(&other, &json!(exported.manifest));
    assert_eq!((&made["annotations"], &made["x-stranger"]), (&manifest["annotations"], &manifest["x-stranger"]));
    assert_eq!(document(&other, &made["config"]["digest"]), config_of(&layers));
    for layer in made["layers"].as_array().expect("layers") {
        assert_eq!(layer["mediaType"], format!("{OCI}.layer.v1.tar+gzip"));
        assert_eq!(layer["annotations"], json!({"mine": "1"}), "what is about the other blob is gone");
        assert!(layer.get("urls").is_none());
    }
    let blobs = fs::read_dir(other.join("blobs/sha256")).expect("blobs").count();
    assert_eq!(blobs, 5, "exactly this image");
}

#[test]
fn a_layer_that_is_there_twice_is_written_once() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    let (mut layout, layer) = (Oci::default(), tar(&[("etc/a", b"1")]));
    let layers = [layer.clone(), layer];
    let image = layout.image(&config_of(&layers), &layers);
    layout.add(Oci::name(image, "org.opencontainers.image.ref.name", "app:1"));
    run(&store, &fixture.dir(&layout.finish())).expect("import");
    let path = fixture.path();
    written(&store, "oci", &path, &ExportOptions::default()).expect("export");
    assert_eq!(fs::read_dir(path.join("blobs/sha256")).expect("blobs").count(), 3);
    assert_eq!(run(&store, &source(Place::Path(path))).expect("again").unpacked, 0);
}

/// Cancels the export when the first bytes are written.
struct Stop<'a>(&'a Cancel);

impl Progress for Stop<'_> {
    fn written(&self, _: &Layer, _: u64) {
        self.0.request();
    }
}

#[test]
fn what_fails_leaves_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    run(&store, &fixture.dir(&oci("app:1"))).expect("import");
    let out = fixture.path();
    fs::create_dir(&out).expect("mkdir");
    let left = || fs::read_dir(&out).expect("out").count();
    for form in ["oci", "oci-archive", "docker-archive"] {
        let cancel = Cancel::default();
        let options = ExportOptions { cancel: cancel.clone(), ..plain() };
        let path = out.join("image");
        let destination = Destination::parse(format!("{form}:{}", path.display()).as_ref()).expect("a destination");
        let error = export(&store, "app:1", &destination, &options, &Stop(&cancel)).expect_err("cancelled");
        assert_eq!((error.kind(), left()), (ErrorKind::Cancelled, 0), "{form}: {}", error.chain());
        let missing = written(&store, form, &out.join("no/image"), &plain()).expect_err("no directory");
        assert_eq!((missing.kind(), left()), (ErrorKind::NotFound, 0), "{}", missing.chain());
    }
    fs::create_dir(out.join("empty")).expect("mkdir");
    written(&store, "oci", &out.join("empty"), &plain()).expect("an empty directory is taken");
    assert_eq!(left(), 1);
    assert_eq!(
        written(&store, "oci-archive", Path::new("/dev/null"), &plain()).expect_err("a device").kind(),
        ErrorKind::InvalidArgument
    );
    let other = export(&store, "none", &Destination::Oci { path: out.join("x"), tag: None }, &plain(), &());
    assert_eq!((other.expect_err("no image").kind(), left()), (ErrorKind::NotFound, 1));

    // Without tar-split data the layer gets another DiffID.
    fs::remove_dir_all(store.root().join("streams")).expect("remove");
    let lost = written(&store, "oci", &out.join("x"), &plain()).expect_err("another layer");
    assert_eq!((lost.kind(), left()), (ErrorKind::DataLoss, 1), "{}", lost.chain());
    assert!(lost.chain().contains("layer 1 of 3"), "{}", lost.chain());
}

#[test]
fn destinations() {
    let parse = |text: &str| Destination::parse(text.as_ref());
    let tagged = |tag: &str| Some(tag.to_owned());
    assert_eq!(parse("oci:a:b/c:1").expect("a tag"), Destination::Oci { path: "a".into(), tag: tagged("b/c:1") });
    let archive = Destination::OciArchive { path: "/a".into(), tag: None };
    assert_eq!(parse("oci-archive:/a").expect("a path"), archive);
    assert_eq!(parse("docker-archive:a:b").expect("a path"), Destination::DockerArchive("a:b".into()));
    for bad in ["oci::b", "oci:a:", "oci-archive:a:-", "oci:a:b c"] {
        parse(bad).expect_err(bad);
    }
    for wrong in ["", "oci", "oci:", "a", ":a", "docker:a", "docker-daemon:a"] {
        assert_eq!(parse(wrong).expect_err(wrong).kind(), ErrorKind::InvalidArgument, "{wrong}");
    }
}

#[test]
fn names_that_docker_knows() {
    let digest = Digest::of(b"").to_string();
    for (name, tag) in [
        ("app", Some("app:latest")),
        ("app:1.0", Some("app:1.0")),
        ("registry.test:5000/a/b_c-d", Some("registry.test:5000/a/b_c-d:latest")),
        ("localhost:5000/a:Tag", Some("localhost:5000/a:Tag")),
        ("App", None),
        ("a b", None),
        ("a:b:c", None),
        ("a/", None),
        ("../a", None),
        (&digest, None),
    ] {
        assert_eq!(docker::tag(name).expect("a pattern").as_deref(), tag, "{name}");
    }
}
