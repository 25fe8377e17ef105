//! Documents of images from strangers: whatever is in them, each command has a time of the processor and an address
//! space (`bounds.rs`), and documents beyond a limit are refused by its name.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::bounds::limited;
use super::{Bench, archive, text};

/// As many entries of one kind as a config of the longest length can hold, in good faith or not.
const MANY: usize = 100_000;

/// An archive with these files.
fn archive_of(bench: &Bench, files: &[(&str, &[u8])]) -> PathBuf {
    let files: Vec<_> = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
    let path = bench.path("image.tar");
    fs::write(&path, archive::archive(&files)).expect("write");
    path
}

/// A docker archive with one image `it:1` of that config and layer.
pub fn image(bench: &Bench, mut config: Value, layer: &[u8]) -> PathBuf {
    config["rootfs"] = json!({"type": "layers", "diff_ids": [strata::id::Digest::of(layer)]});
    let manifest = json!([{"Config": "config.json", "Layers": ["layer.tar"], "RepoTags": ["it:1"]}]).to_string();
    let config = config.to_string();
    let files: [(&str, &[u8]); 3] =
        [("config.json", config.as_bytes()), ("layer.tar", layer), ("manifest.json", manifest.as_bytes())];
    archive_of(bench, &files)
}

/// Configs with many entries of each kind.
fn configs() -> Vec<(&'static str, Value)> {
    let names = || (0..MANY).map(|number| format!("n{number}"));
    let map = |value: Value| names().map(|name| (name, value.clone())).collect::<serde_json::Map<_, _>>();
    let list = |end: &str| names().map(|name| format!("{name}{end}")).collect::<Vec<_>>();
    let steps = |step: Value| vec![step; MANY];
    vec![
        ("labels", json!({"config": {"Labels": map("v".into())}})),
        ("variables", json!({"config": {"Env": list("=v"), "Cmd": ["true"]}})),
        ("ports", json!({"config": {"ExposedPorts": map(json!({}))}})),
        ("volumes", json!({"config": {"Volumes": map(json!({}))}})),
        ("words", json!({"config": {"Cmd": list(""), "Entrypoint": list("")}})),
        ("triggers", json!({"config": {"OnBuild": vec!["ENV a=b"; 9_000]}})),
        ("history", json!({"history": steps(json!({"empty_layer": true}))})),
        ("history of layers", json!({"history": steps(json!({"created_by": "x"}))})),
        ("unknown members", json!({"other": {"deep": map(json!([[[{}]]]))}})),
        ("one name", json!({"config": {"Labels": {"n".repeat(3 << 20): "v"}}})),
    ]
}

#[test]
fn documents_of_many_entries_take_little() {
    let Some(bench) = Bench::new() else { return };
    let nothing = Path::new("/dev/null");
    fs::create_dir(bench.path("context")).expect("mkdir");
    fs::write(bench.path("context/Dockerfile"), "FROM it:1\nENV new=1\nLABEL new=1\n").expect("write");
    let (context, exported) = (bench.path("context"), bench.path("out.tar"));
    let destination = format!("docker-archive:{}", exported.display());
    let layer = archive::archive(&[("f".to_owned(), b"x".to_vec())]);
    for (what, config) in configs() {
        let archive = image(&bench, config, &layer);
        let [archive, context] = [&archive, &context].map(|path| path.to_str().expect("UTF-8"));
        let run = |arguments: &[&str]| {
            let output = limited(&bench, arguments, nothing);
            let said = text(&output.stderr);
            // A limit of a build is an answer too; a signal and a missing megabyte are none.
            assert!(output.status.code().is_some() && !said.contains("panicked"), "{what}: {arguments:?}: {said}");
            (output.status.success(), said)
        };
        for arguments in [
            &["import", archive][..],
            &["images"],
            &["images", "--json"],
            &["history", "it:1"],
            &["export", "it:1", &destination],
        ] {
            let (succeeded, said) = run(arguments);
            assert!(succeeded, "{what}: {arguments:?}: {said}");
        }
        let (built, said) = run(&["build", "-t", "child", "--pull", "never", context]);
        assert!(built || said.contains("more than 65536") || said.contains("--limit"), "{what}: {said}");
        for name in if built { &["child", "it:1"][..] } else { &["it:1"] } {
            assert!(run(&["rmi", name]).0, "{what}: {name}");
        }
        fs::remove_file(&exported).expect("remove");
    }
}

/// Checks that an archive is refused within the same limits, for the expected reason.
fn refused(bench: &Bench, what: &str, archive: &Path, expected: &str) {
    let name = archive.to_str().expect("UTF-8");
    let output = limited(bench, &["import", name], Path::new("/dev/null"));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{what}: {said}");
    assert!(said.contains(expected), "{what}: {said}");
    assert!(bench.names(&[]).is_empty(), "{what}: nothing is unpacked");
}

#[test]
fn documents_are_not_deep_and_not_long() {
    let Some(bench) = Bench::new() else { return };
    bench.ok(&["prepare", "k"]);
    bench.ok(&["rm", "k"]);
    let manifest = json!([{"Config": "config.json", "Layers": [], "RepoTags": ["it:1"]}]).to_string();
    for open in ["[", "{\"a\":", "{\"config\":{\"Labels\":", "{\"history\":["] {
        let deep = open.repeat(100_000);
        for files in [
            &[("config.json", deep.as_bytes()), ("manifest.json", manifest.as_bytes())][..],
            &[("manifest.json", deep.as_bytes())],
            &[("index.json", deep.as_bytes())],
            &[("oci-layout", deep.as_bytes()), ("index.json", b"{}")],
            &[("repositories", deep.as_bytes())],
            &[("top/json", deep.as_bytes()), ("top/layer.tar", b"")],
        ] {
            refused(&bench, open, &archive_of(&bench, files), "is not what it should be");
        }
    }
    let long = image(&bench, json!({"author": "x".repeat(4 << 20)}), b"");
    refused(&bench, "long", &long, "the limit is 4194304");
}

/// Every image of an archive is looked at to know which is meant. One document of many names was read for each: hours.
#[test]
fn all_documents_together_have_a_limit() {
    let Some(bench) = Bench::new() else { return };
    bench.ok(&["prepare", "k"]);
    bench.ok(&["rm", "k"]);
    let config = json!({"author": "x".repeat(3 << 20), "rootfs": {"type": "layers", "diff_ids": []}}).to_string();
    let docker = json!(vec![json!({"Config": "config.json", "Layers": []}); 1000]).to_string();
    let files: [(&str, &[u8]); 2] = [("config.json", config.as_bytes()), ("manifest.json", docker.as_bytes())];
    refused(&bench, "docker", &archive_of(&bench, &files), "longer than 67108864 bytes together");

    let entry = |bytes: &[u8]| json!({"digest": strata::id::Digest::of(bytes), "size": bytes.len()});
    let manifest = json!({"schemaVersion": 2, "config": entry(config.as_bytes()), "layers": []}).to_string();
    let index = json!({"schemaVersion": 2, "manifests": vec![entry(manifest.as_bytes()); 20_000]}).to_string();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", strata::id::Digest::of(bytes).hex());
    let nested = json!({"schemaVersion": 2, "manifests": [
        {"digest": strata::id::Digest::of(index.as_bytes()), "size": index.len(),
         "mediaType": "application/vnd.oci.image.index.v1+json"},
    ]});
    let (nested, config_path, manifest_path, index_path) =
        (nested.to_string(), blob(config.as_bytes()), blob(manifest.as_bytes()), blob(index.as_bytes()));
    let blobs: [(&str, &[u8]); 3] =
        [(&config_path, config.as_bytes()), (&manifest_path, manifest.as_bytes()), (&index_path, index.as_bytes())];
    let files = [&blobs[..], &[("index.json", nested.as_bytes())]].concat();
    refused(&bench, "nested index", &archive_of(&bench, &files), "longer than 67108864 bytes together");

    let mut legacy = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(config.len() as u64);
    legacy.append_data(&mut header, "a/json", config.as_bytes()).expect("append");
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Link);
    (0..1000).for_each(|number| legacy.append_link(&mut header, format!("b{number}/json"), "a/json").expect("append"));
    let path = bench.path("legacy.tar");
    fs::write(&path, legacy.into_inner().expect("an archive")).expect("write");
    refused(&bench, "docker's old form", &path, "longer than 67108864 bytes together");
}

/// A compressed layer is read for its digest; one that an image names 3000 times was read 3000 times.
#[test]
fn layers_are_counted_before_they_are_read() {
    let Some(bench) = Bench::new() else { return };
    bench.ok(&["prepare", "k"]);
    bench.ok(&["rm", "k"]);
    let mut layer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    std::io::Write::write_all(&mut layer, &vec![1; 16 << 20]).expect("compress");
    let layer = layer.finish().expect("compress");
    let ids = vec![strata::id::Digest::of(b"x"); 3000];
    let config = json!({"rootfs": {"type": "layers", "diff_ids": ids}}).to_string();
    let manifest = json!([{"Config": "config.json", "Layers": vec!["layer.tar"; 3000]}]).to_string();
    let files: [(&str, &[u8]); 3] =
        [("config.json", config.as_bytes()), ("layer.tar", &layer), ("manifest.json", manifest.as_bytes())];
    refused(&bench, "docker", &archive_of(&bench, &files), "--limit layers=NUMBER");

    let mut old: Vec<(String, Vec<u8>)> = vec![("l0/json".to_owned(), b"{}".to_vec())];
    old.extend((1..400).map(|number| {
        (format!("l{number}/json"), json!({"parent": format!("l{}", number - 1)}).to_string().into_bytes())
    }));
    old.push(("repositories".to_owned(), json!({"it": {"1": "l399"}}).to_string().into_bytes()));
    old.push(("l0/layer.tar".to_owned(), layer));
    let path = bench.path("old.tar");
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    for (name, bytes) in &old {
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes.as_slice()).expect("append");
    }
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Link);
    for number in 1..400 {
        archive.append_link(&mut header, format!("l{number}/layer.tar"), "l0/layer.tar").expect("append");
    }
    fs::write(&path, archive.into_inner().expect("an archive")).expect("write");
    refused(&bench, "docker's old form", &path, "--limit layers=NUMBER");
}
