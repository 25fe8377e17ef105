//! Images of kinds that other tools write and read: optional information that is missing or does not fit, docker's
//! archives of all versions, digests by sha512, layers without changes, sparse members, and images that are refused.

use super::*;

/// Returns a layout whose documents `change` has altered.
fn altered(change: impl Fn(&mut Value, &mut Value, &mut Value)) -> Content {
    let (mut oci, layers) = (Oci::default(), layers());
    let image = oci.image(&config_of(&layers), &layers);
    let mut manifest: Value = oci.parse(&image);
    let mut config: Value = oci.parse(&manifest["config"]);
    let mut entry = json!({});
    change(&mut config, &mut manifest, &mut entry);
    let named = oci.document(manifest["config"]["mediaType"].as_str().unwrap_or("x"), &config);
    for key in ["digest", "size"] {
        manifest["config"][key] = named[key].clone();
    }
    let mut image = oci.document(&format!("{OCI}.manifest.v1+json"), &manifest);
    image.as_object_mut().expect("a descriptor").extend(entry.as_object().expect("an object").clone());
    oci.add(image);
    oci.finish()
}

/// Imports `content` into a store of its own.
fn import_of(fixture: &Fixture, content: &Content, options: &Options) -> (Store, Result<Imported>) {
    let store = fixture.store();
    let imported = import(&store, &fixture.file(&archive(content)), options, &());
    (store, imported)
}

#[track_caller]
fn takes(fixture: &Fixture, what: &str, content: &Content) {
    let (store, imported) = import_of(fixture, content, &Options::default());
    let imported = imported.unwrap_or_else(|error| panic!("{what}: {}", error.chain()));
    assert_eq!(imported.layers, 3, "{what}");
    let steps = history(&store, &imported.name).unwrap_or_else(|error| panic!("{what}: {}", error.chain()));
    let shown = steps.iter().filter(|step| step.layer.is_some()).count();
    assert_eq!(shown, 3, "{what}: each layer is in the history");
    let out = Destination::OciArchive { path: fixture.path(), tag: None };
    export(&store, &imported.name, &out, &ExportOptions::default(), &())
        .unwrap_or_else(|error| panic!("{what}: {}", error.chain()));
    drop(store);
    fixture.clear();
}

#[test]
fn optional_information() {
    let Some(fixture) = Fixture::new() else { return };
    let step = json!({"created_by": "x"});
    let steps = |count: usize| Value::from(vec![step.clone(); count]);
    for (what, steps) in [
        ("null", Value::Null),
        ("none", json!([])),
        ("fewer", steps(1)),
        ("more", steps(5)),
        ("empty layers only", json!([{"empty_layer": true}])),
        ("nulls", json!([{"created": null, "created_by": null, "comment": null, "empty_layer": null, "author": 7}])),
    ] {
        takes(&fixture, &format!("history: {what}"), &altered(|config, _, _| config["history"] = steps.clone()));
    }
    for key in ["architecture", "os", "config", "history", "made.by.a.stranger", "created"] {
        takes(&fixture, &format!("{key} is null"), &altered(|config, _, _| config[key] = Value::Null));
        let without = |config: &mut Value, _: &mut Value, _: &mut Value| {
            config.as_object_mut().expect("object").remove(key);
        };
        takes(&fixture, &format!("no {key}"), &altered(without));
    }
    takes(&fixture, "rootfs.type", &altered(|config, _, _| config["rootfs"]["type"] = Value::Null));
    let unversioned = altered(|_, manifest, _| drop(manifest.as_object_mut().expect("object").remove("schemaVersion")));
    takes(&fixture, "no schemaVersion", &unversioned);
    takes(&fixture, "no mediaType", &altered(|_, manifest, _| manifest["mediaType"] = "".into()));
    takes(&fixture, "null annotations", &altered(|_, manifest, _| manifest["annotations"] = Value::Null));
    for platform in [Value::Null, json!({}), json!({"os": null, "architecture": "amd64"}), json!({"architecture": ""})]
    {
        takes(&fixture, &format!("platform {platform}"), &altered(|_, _, entry| entry["platform"] = platform.clone()));
    }
    for annotations in [Value::Null, json!({"a": null, "b": 1}), json!({"org.opencontainers.image.ref.name": "a\nb"})] {
        let changed = altered(|_, _, entry| entry["annotations"] = annotations.clone());
        takes(&fixture, &format!("annotations {annotations}"), &changed);
    }
    takes(
        &fixture,
        "unknown members",
        &altered(|config, manifest, entry| {
            for document in [config, manifest, entry] {
                document["unknown"] = json!({"a": [1, null]});
            }
        }),
    );
    let mut unmarked = oci("app:1");
    unmarked.remove("oci-layout");
    takes(&fixture, "no marker", &unmarked);
}

#[test]
fn a_platform_that_only_the_config_knows() {
    let Some(fixture) = Fixture::new() else { return };
    let mut oci = Oci::default();
    for architecture in ["s390x", &Platform::host().architecture, "riscv64"] {
        let mut config = config_of(&layers());
        config["architecture"] = architecture.into();
        let image = oci.image(&config, &layers());
        oci.add(image);
    }
    let entries = std::mem::take(&mut oci.index);
    let mut flat = oci.clone();
    flat.index.clone_from(&entries);
    let nested = oci.document(&format!("{OCI}.index.v1+json"), &json!({"schemaVersion": 2, "manifests": entries}));
    oci.add(nested);
    for content in [oci.finish(), flat.finish()] {
        for (wanted, expected) in [(None, Platform::host().architecture), (Some("linux/s390x"), "s390x".to_owned())] {
            let platform = wanted.map(|wanted| wanted.parse().expect("platform"));
            let (store, imported) = import_of(&fixture, &content, &Options { platform, ..Options::default() });
            let id = imported.unwrap_or_else(|error| panic!("{wanted:?}: {}", error.chain())).id;
            let config = String::from_utf8(store.document(id).expect("config")).expect("text");
            assert!(config.contains(&format!("\"architecture\":\"{expected}\"")), "{config}");
            drop(store);
            fixture.clear();
        }
    }
}

/// Both forms of one image in one archive, as docker writes them since version 25.
fn both_forms() -> Content {
    let mut content = oci("app:1");
    content.extend(docker(&["app:1"]));
    content
}

#[test]
fn either_form_may_be_broken() {
    let Some(fixture) = Fixture::new() else { return };
    let with = |path: &str, bytes: &str| {
        let mut content = both_forms();
        content.insert(path.to_owned(), bytes.as_bytes().to_vec());
        content
    };
    let blob = digest(&COMPRESSIONS[1].1(&layers()[1])).replace("sha256:", "blobs/sha256/");
    let mut without_a_blob = both_forms();
    without_a_blob.remove(&blob);
    let mut without_a_layer = both_forms();
    without_a_layer.remove(&format!("{:064}/layer.tar", 1));
    for (what, content) in [
        ("both whole", both_forms()),
        ("null manifests", with("index.json", r#"{"schemaVersion":2,"manifests":null}"#)),
        ("an index that is no JSON", with("index.json", "{")),
        ("another version", with("oci-layout", r#"{"imageLayoutVersion":"2"}"#)),
        ("no blob", without_a_blob.clone()),
        ("an empty list", with("manifest.json", "[]")),
        ("a list that is no JSON", with("manifest.json", "[")),
        ("no config", with("manifest.json", r#"[{"Config":"nowhere.json","RepoTags":null,"Layers":null}]"#)),
        ("no layer", without_a_layer.clone()),
    ] {
        takes(&fixture, what, &content);
    }
    let said = |form, content: &Content| {
        let (_, imported) = import_of(&fixture, content, &Options { form: Some(form), ..Options::default() });
        fixture.clear();
        imported
    };
    assert!(said(Form::Docker, &without_a_blob).is_ok() && said(Form::Oci, &without_a_layer).is_ok());
    said(Form::Oci, &without_a_blob).expect_err("the form that was said");
    said(Form::Docker, &without_a_layer).expect_err("the form that was said");
    assert!(said(Form::Docker, &oci("app:1")).expect_err("not there").chain().contains("manifest.json"));
    assert!(said(Form::Oci, &docker(&["app:1"])).expect_err("not there").chain().contains("index.json"));
}

#[test]
fn two_forms_that_disagree() {
    let Some(fixture) = Fixture::new() else { return };
    let store = fixture.store();
    let mut content = both_forms();
    let second = json!({"rootfs": {"type": "layers", "diff_ids": [digest(&layers()[0])]}}).to_string().into_bytes();
    let mut list: Value = serde_json::from_slice(&content["manifest.json"]).expect("list");
    let layer = list[0]["Layers"][0].clone();
    list.as_array_mut().expect("list").push(json!({"Config": "second.json", "RepoTags": null, "Layers": [layer]}));
    content.insert("second.json".into(), second.clone());
    content.insert("manifest.json".into(), list.to_string().into_bytes());
    let mut source = fixture.file(&archive(&content));
    let error = run(&store, &source).expect_err("docker's form names two");
    assert!(
        error.kind() == ErrorKind::InvalidArgument && error.chain().contains(&digest(&second)),
        "{}",
        error.chain()
    );
    for chosen in [digest(&second), "@1".to_owned()] {
        source.reference = Some(chosen);
        assert_eq!(run(&store, &source).expect("the second").id.to_string(), digest(&second));
    }
    source.reference = Some("docker.io/library/app:1".into());
    assert_eq!(run(&store, &source).expect("the first, by all of its name").layers, 3);
    // Each form has one image, and the two images differ.
    list.as_array_mut().expect("list").remove(0);
    content.insert("manifest.json".into(), list.to_string().into_bytes());
    let error = run(&store, &fixture.file(&archive(&content))).expect_err("which one?");
    assert!(
        error.kind() == ErrorKind::InvalidArgument && error.chain().contains(&digest(&second)),
        "{}",
        error.chain()
    );
}

/// An archive as docker wrote it before version 1.10: `names` beside the layers, if there are any.
fn legacy(names: Option<Value>) -> Content {
    let mut content = Content::new();
    for (at, layer) in layers().into_iter().enumerate() {
        let id = |at: usize| format!("{at:064}");
        let mut described = json!({"id": id(at), "created": "2015-01-01T00:00:00Z", "architecture": Platform::host().architecture,
            "os": "linux", "container_config": {"Cmd": ["/bin/sh", "-c", format!("step {at}")]}, "config": {"Cmd": ["sh"]}});
        if at > 0 {
            described["parent"] = id(at - 1).into();
        }
        content.insert(format!("{}/VERSION", id(at)), b"1.0".to_vec());
        content.insert(format!("{}/json", id(at)), described.to_string().into_bytes());
        content.insert(format!("{}/layer.tar", id(at)), layer);
    }
    content.extend(names.map(|names| ("repositories".to_owned(), names.to_string().into_bytes())));
    content
}

#[test]
fn docker_before_1_10() {
    let Some(fixture) = Fixture::new() else { return };
    let top = format!("{:064}", 2);
    for (names, name) in [(Some(json!({"app": {"1": top}})), Some("app:1")), (None, None), (Some(json!({})), None)] {
        let content = legacy(names);
        for source in [fixture.dir(&content), fixture.file(&archive(&content))] {
            let store = fixture.store();
            let imported = run(&store, &source).unwrap_or_else(|error| panic!("{}", error.chain()));
            assert_eq!((imported.layers, name.unwrap_or(&imported.id.to_string())), (3, imported.name.as_str()));
            let steps = history(&store, &imported.name).expect("history");
            assert_eq!(steps[1].created_by.as_deref(), Some("/bin/sh -c step 1"));
            let config: Value = serde_json::from_slice(&store.document(imported.id).expect("config")).expect("config");
            assert_eq!(config["config"]["Cmd"], json!(["sh"]));
            drop(store);
            fixture.clear();
        }
    }
    let mut source = fixture.file(&archive(&legacy(Some(json!({"app": {"1": top, "0": format!("{:064}", 0)}})))));
    let error = run(&fixture.store(), &source).expect_err("two names of two images");
    assert!(error.chain().contains("app:0, app:1"), "{}", error.chain());
    source.reference = Some("app:0".into());
    assert_eq!(run(&fixture.store(), &source).expect("chosen").layers, 1);
    // The archive also has a broken `manifest.json`.
    let mut broken = legacy(Some(json!({"app": {"1": top}})));
    broken.insert("manifest.json".into(), b"[".to_vec());
    takes(&fixture, "a broken list", &broken);
    let mut circle = legacy(None);
    circle.insert("repositories".into(), json!({"app": {"1": top}}).to_string().into_bytes());
    circle.insert(format!("{:064}/json", 0), json!({"parent": top}).to_string().into_bytes());
    let error = run(&fixture.store(), &fixture.file(&archive(&circle))).expect_err("a circle");
    assert!(error.chain().contains("circles"), "{}", error.chain());
}

#[test]
fn digests_by_sha512() {
    let Some(fixture) = Fixture::new() else { return };
    let by_sha512 = |bytes: &[u8]| BlobDigest::Sha512([0; 64]).like(bytes);
    let described = |content: &mut Content, media_type: &str, bytes: &[u8]| {
        content.insert(by_sha512(bytes).path(), bytes.to_vec());
        json!({"mediaType": media_type, "digest": by_sha512(bytes).to_string(), "size": bytes.len()})
    };
    let mut content = oci("app:1");
    let config = described(&mut content, &format!("{OCI}.config.v1+json"), config_of(&layers()).to_string().as_bytes());
    let blobs: Vec<Value> = layers()
        .iter()
        .map(|layer| described(&mut content, &format!("{OCI}.layer.v1.tar+gzip"), &gzip(layer)))
        .collect();
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": blobs}).to_string();
    let entry = described(&mut content, &format!("{OCI}.manifest.v1+json"), manifest.as_bytes());
    content.insert("index.json".into(), json!({"manifests": [entry]}).to_string().into_bytes());
    takes(&fixture, "sha512", &content);
    let path = by_sha512(&gzip(&layers()[1])).path();
    // The damaged blob decompresses to the same stream.
    content.get_mut(&path).expect("blob")[4] ^= 1;
    let (_, damaged) = import_of(&fixture, &content, &Options::default());
    let error = damaged.expect_err("damaged");
    assert!(error.kind() == ErrorKind::DataLoss && error.chain().contains("sha512:"), "{}", error.chain());
}

#[test]
fn layers_without_changes() {
    let Some(fixture) = Fixture::new() else { return };
    for plain in [vec![], vec![0; 512], vec![0; 1024], vec![0; 10_240], vec![0; 3 << 20]] {
        for (_, compress) in COMPRESSIONS {
            let all = [layers()[0].clone(), plain.clone(), layers()[2].clone()];
            let mut oci = Oci::default();
            let config = oci.document(&format!("{OCI}.config.v1+json"), &config_of(&all));
            let blobs: Vec<Value> =
                all.iter().map(|layer| oci.blob(&format!("{OCI}.layer.v1.tar+gzip"), &compress(layer))).collect();
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": blobs});
            let image = oci.document(&format!("{OCI}.manifest.v1+json"), &manifest);
            oci.add(image);
            let (store, imported) = import_of(&fixture, &oci.finish(), &Options::default());
            let imported = imported.unwrap_or_else(|error| panic!("{} bytes: {}", plain.len(), error.chain()));
            let out = Destination::OciArchive { path: fixture.path(), tag: None };
            export(&store, &imported.name, &out, &ExportOptions::default(), &()).expect("byte for byte");
            drop(store);
            fixture.clear();
        }
    }
}

#[test]
fn compressed_in_pieces() {
    let Some(fixture) = Fixture::new() else { return };
    let skippable = |bytes: &[u8]| [&[0x5a, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], bytes].concat();
    let halves = |layer: &[u8], compress: Compress| {
        let (a, b) = layer.split_at(layer.len() / 2);
        (compress(a), compress(b))
    };
    let (gzip_a, gzip_b) = halves(&layers()[0], gzip);
    let (zstd_a, zstd_b) = halves(&layers()[1], zstd);
    let blobs = [
        [gzip_a, gzip(b""), gzip_b].concat(),
        [skippable(&skippable(&zstd_a)), skippable(&zstd_b), skippable(b"")].concat(),
        [layers()[2].clone(), vec![0; 4 << 20]].concat(),
    ];
    let plain = [layers()[0].clone(), layers()[1].clone(), blobs[2].clone()];
    let mut oci = Oci::default();
    let config = oci.document(&format!("{OCI}.config.v1+json"), &config_of(&plain));
    let blobs: Vec<Value> = blobs.iter().map(|blob| oci.blob(&format!("{OCI}.layer.v1.tar"), blob)).collect();
    let image = oci.document(&format!("{OCI}.manifest.v1+json"), &json!({"config": config, "layers": blobs}));
    oci.add(image);
    takes(&fixture, "pieces", &oci.finish());
}

#[test]
fn sparse_members() {
    let Some(fixture) = Fixture::new() else { return };
    let dir = fixture.path();
    let content = docker(&["app:1"]);
    let source = fixture.dir(&content);
    let Place::Path(layout) = &source.place else { unreachable!() };
    // A layer whose zeros at the end can be a hole of the file that holds it.
    let layer = [layers()[0].clone(), vec![0; 1 << 20]].concat();
    let mut config: Value = config_of(&[layer.clone(), layers()[1].clone(), layers()[2].clone()]);
    config["author"] = "sparse".into();
    fs::write(layout.join("config.json"), config.to_string()).expect("config");
    let mut list: Value = serde_json::from_slice(&content["manifest.json"]).expect("list");
    list[0]["Config"] = "config.json".into();
    fs::write(layout.join("manifest.json"), list.to_string()).expect("list");
    let path = layout.join(format!("{:064}/layer.tar", 0));
    fs::write(&path, &layers()[0]).expect("layer");
    File::options().write(true).open(&path).expect("open").set_len(layer.len() as u64).expect("hole");
    for dialect in ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"] {
        let archive = dir.with_extension("tar");
        let format = if dialect.contains("gnu") { "--format=gnu" } else { "--format=pax" };
        let mut tar = std::process::Command::new("tar");
        let status = tar
            .args(["--sparse", "--hole-detection=raw", format, dialect, "-cf"])
            .arg(&archive)
            .arg("-C")
            .arg(layout)
            .arg(".")
            .status();
        assert!(status.expect("GNU tar").success(), "{dialect}");
        assert!(archive.metadata().expect("stat").len() < 1 << 20, "{dialect}: the hole is not in it");
        let store = fixture.store();
        let imported = run(&store, &source_of(&archive)).unwrap_or_else(|error| panic!("{dialect}: {}", error.chain()));
        assert_eq!(imported.layers, 3);
        drop(store);
        fixture.clear();
    }
}

fn source_of(path: &Path) -> Source {
    fixture::source(Place::Path(path.to_owned()))
}

#[test]
fn what_is_refused() {
    let Some(fixture) = Fixture::new() else { return };
    let layer_type = |ending: &'static str| {
        altered(move |_, manifest, _| manifest["layers"][1]["mediaType"] = format!("{OCI}.layer{ending}").into())
    };
    let foreign = |blob_is_there: bool| {
        let mut content = layer_type(".nondistributable.v1.tar+gzip");
        if !blob_is_there {
            content.remove(&digest(&COMPRESSIONS[1].1(&layers()[1])).replace("sha256:", "blobs/sha256/"));
        }
        content
    };
    takes(&fixture, "a foreign layer that is there", &foreign(true));
    let artifact = altered(|config, _, _| *config = json!({}));
    for (what, content, words) in [
        ("foreign", foreign(false), &["layer 2", "foreign layer"][..]),
        ("encrypted", layer_type(".v1.tar+gzip+encrypted"), &["layer 2 of 3", "is encrypted"]),
        ("Windows", altered(|config, _, _| config["os"] = "windows".into()), &["the image is for windows/"]),
        ("artifact", artifact, &["artifact", "no layers"]),
        (
            "chart",
            altered(|_, manifest, _| manifest["config"]["mediaType"] = "application/x.chart".into()),
            &["artifact", "application/x.chart"],
        ),
    ] {
        let (_, refused) = import_of(&fixture, &content, &Options::default());
        let error = refused.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}: {}", error.chain());
        assert!(words.iter().all(|word| error.chain().contains(word)), "{what}: {}", error.chain());
        fixture.clear();
    }
}
