//! Images on their way in and out, and in the store.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use super::archive::docker_archive;
use super::tally::Tally;
use super::{Bench, text};

/// A docker archive with one image for each of `names`: a layer with a file of that name.
fn archive(names: &[&str]) -> Vec<u8> {
    let image = |name| (name, vec![vec![(str::to_owned(name), b"content".to_vec())]]);
    docker_archive(&names.iter().copied().map(image).collect::<Vec<_>>())
}

#[test]
fn importing() {
    let Some(bench) = Bench::mounting() else { return };
    let (one, two) = (bench.path("one.tar"), bench.path("two.tar"));
    fs::write(&one, archive(&["alpha"])).expect("write");
    fs::write(&two, archive(&["beta", "gamma"])).expect("write");
    let (one, two) = (one.to_str().expect("UTF-8"), two.to_str().expect("UTF-8"));
    assert_eq!(bench.ok(&["images"]), "");

    let answer = bench.ok(&["import", one]);
    let (name, id) = answer.trim_end().split_once(' ').expect("name and ID");
    assert!(name.contains("alpha") && id.starts_with("sha256:"), "{answer}");
    assert_eq!(bench.json(&["import", one, "--name", "mine"])["unpacked"], 0);
    let images = bench.json(&["images"]);
    assert_eq!((&images[1]["name"], &images[1]["id"]), (&json!("mine"), &json!(id)));
    let top = images[1]["top"].as_str().expect("a snapshot");
    assert_eq!(bench.ok(&["diff", top]), "A /alpha\n");
    let layer = bench.path("layer.tar");
    let file = layer.to_str().expect("UTF-8");
    let diff_id = bench.ok(&["diff", top, "--tar", file]);
    assert_eq!(bench.json(&["info", top])["diff_id"], json!(diff_id.trim_end()), "byte for byte as it came");
    assert_ne!(bench.ok(&["diff", top, "--tar", file, "--canonical"]), diff_id, "it is no layer of ours");
    assert_ne!(bench.ok(&["diff", top, "--tar", file, "--mtime", "seconds"]), diff_id);
    let streams = bench.path("store/streams");
    for stream in fs::read_dir(&streams).expect("streams") {
        fs::remove_file(stream.expect("entry").path()).expect("remove");
    }
    fs::remove_file(&layer).expect("remove");
    let said = bench.fails(&["diff", top, "--tar", file], "data_loss");
    assert!(said.contains("byte for byte") && !layer.exists(), "never another layer than the recorded one: {said}");
    assert!(bench.ok(&["images"]).contains(&id[..19]));
    let said = bench.fails(&["rm", top], "failed_precondition");
    assert!(said.contains("strata rmi mine first") || said.contains("strata rmi alpha"), "{said}");

    let said = bench.fails(&["import", two], "invalid_argument");
    assert!(said.contains("beta") && said.contains("gamma"), "{said}");
    assert!(bench.ok(&["import", &format!("{two}:gamma:latest")]).contains("gamma"));
    let mut child = bench.command(&["import", "-", "--name", "piped"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawn");
    child.stdin.take().expect("stdin").write_all(&archive(&["alpha"])).expect("write");
    assert_eq!(text(&child.wait_with_output().expect("wait").stdout), format!("piped {id}\n"));
    let mut command = bench.command(&["import", "-"]);
    let output = command.stdin(fs::File::open(env!("CARGO_BIN_EXE_strata")).expect("open")).output().expect("run");
    assert!(text(&output.stderr).starts_with("strata: reading the given archive: it is no tar"), "{output:?}");

    let output = bench.run(&["import", &format!("{two}:beta:latest"), "-v"]);
    assert!(text(&output.stderr).contains("layer 1 of 1"), "{output:?}");
}

#[test]
fn damaged_images() {
    let Some(bench) = Bench::mounting() else { return };
    let file = bench.path("image.tar");
    let name = file.to_str().expect("UTF-8");
    bench.fails(&["import", name], "not_found");
    assert!(!bench.path("store").exists());
    for text in ["FROM scratch\n".to_owned(), "a line of a text file\n".repeat(100)] {
        fs::write(&file, text).expect("write");
        let said = bench.fails(&["import", name], "data_loss");
        let forms = ["image.tar", "no tar archive", "gzip or zstd", "directory", "OCI", "docker"];
        assert!(forms.iter().all(|form| said.contains(form)) && !said.contains("byte"), "{said}");
    }
    let whole = archive(&["alpha"]);
    fs::write(&file, &whole[..whole.len() / 2]).expect("write");
    assert!(bench.fails(&["import", name], "data_loss").contains("image.tar"));
    let mut other = whole.clone();
    let at = whole.windows(7).position(|bytes| bytes == b"content").expect("content");
    other[at] = b'C';
    fs::write(&file, &other).expect("write");
    assert!(bench.fails(&["import", name], "data_loss").contains("sha256:"));
    bench.misuse(&["import", name, "--platform", "linux"]);
    assert_eq!(bench.ok(&["images"]), "");
    assert_eq!(bench.ok(&["ls"]), "", "nothing is left of a failed import");
    assert_eq!(fs::read_dir(bench.path("store/s")).expect("s").count(), 0, "nor on disk");
}

#[test]
fn exporting_listing_and_removing() {
    let Some(bench) = Bench::mounting() else { return };
    let file = bench.path("image.tar");
    fs::write(&file, archive(&["alpha"])).expect("write");
    let answer = bench.ok(&["import", file.to_str().expect("UTF-8")]);
    let (name, id) = answer.trim_end().split_once(' ').expect("name and ID");

    for (form, how) in [("oci", "gzip"), ("oci-archive", "zstd"), ("docker-archive", "none")] {
        let path = bench.path(form);
        let path = path.to_str().expect("UTF-8");
        let destination = format!("{form}:{path}");
        let exported = bench.json(&["export", name, &destination, "--compress", how]);
        assert_eq!((&exported["id"], &exported["layers"]), (&json!(id), &json!(1)), "{form}");
        assert_eq!(bench.json(&["import", path, "--name", form])["id"], id, "{form}");
    }
    let layout = bench.path("tagged");
    let tagged = format!("{}:1.0", layout.display());
    bench.ok(&["export", name, &format!("oci:{tagged}")]);
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).expect("read")).expect("JSON");
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "1.0");
    assert_eq!(bench.json(&["import", &tagged, "--name", "oci"])["id"], id);
    let taken = format!("oci:{}", bench.path("oci").display());
    bench.fails(&["export", name, &taken], "already_exists");
    bench.fails(&["export", "none", &format!("oci:{}", bench.path("x").display())], "not_found");
    assert!(bench.misuse(&["export", name, "docker-daemon:x"]).contains("oci-archive:FILE"));
    bench.misuse(&["export", name, "oci:x", "--compress", "xz"]);
    let output = bench.run(&["export", name, &format!("oci:{}", bench.path("told").display()), "-v"]);
    assert!(text(&output.stderr).contains("layer 1 of 1"), "{output:?}");

    let images = bench.json(&["images"]);
    assert_eq!((&images[0]["name"], &images[0]["layers"], &images[0]["base"]), (&json!(name), &json!(1), &Value::Null));
    assert_eq!(images[0]["shared_bytes"], 0, "names of one image share nothing with another");
    let top = images[0]["top"].as_str().expect("a snapshot");
    assert!(bench.ok(&["ls", "--tree"]).contains(&format!("{name}, docker-archive, oci")), "the images of a layer");
    assert_eq!(bench.json(&["history", name])[0]["layer"], top);
    assert!(bench.ok(&["history", name]).contains(&top[..19]));
    bench.fails(&["history", "none"], "not_found");
    let said = bench.fails(&["info", name], "not_found");
    assert!(said.contains("is an image") && said.contains(&format!("strata history {name} tells")), "{said}");
    assert!(said.contains(&format!("strata prepare KEY {name} makes")), "{said}");
    assert!(bench.fails(&["info", "none"], "not_found").contains("strata ls"));

    bench.ok(&["prepare", "work", name]);
    assert_eq!(bench.ok(&["rmi", name, "oci", "oci-archive"]), format!("{name}\noci\noci-archive\n"));
    let said = bench.fails(&["rmi", "docker-archive"], "failed_precondition");
    assert!(said.contains("container \"work\""), "{said}");
    bench.ok(&["rm", "work"]);
    let removed = bench.json(&["rmi", "docker-archive"]);
    assert_eq!(removed, json!({"removed": ["docker-archive"], "freed": 1, "waiting": 0}));
    bench.fails(&["rmi", "docker-archive"], "not_found");
    assert_eq!(bench.ok(&["images"]) + &bench.ok(&["ls"]), "");
    assert_eq!(fs::read_dir(bench.path("store/streams")).expect("streams").count(), 0);
}

/// An image stands for its topmost layer where that is only read; digests need not be whole.
#[test]
fn what_a_word_names() {
    let Some(bench) = Bench::mounting() else { return };
    let file = bench.path("image.tar");
    fs::write(&file, archive(&["alpha", "beta"])).expect("write");
    for name in ["alpha", "beta"] {
        let source = format!("{}:{name}:latest", file.display());
        bench.ok(&["import", &source, "--name", name]);
    }
    let images = bench.json(&["images"]);
    let [top, id] = ["top", "id"].map(|field| images[0][field].as_str().expect("a digest"));
    let (short_top, short_id) = (&top[..19], &id[..19]);

    for word in ["alpha", short_id, short_top, id] {
        let key = format!("on-{word}");
        bench.ok(&["prepare", &key, word]);
        assert_eq!(bench.json(&["info", &key])["parent"], top, "{word}");
        assert_eq!(bench.ok(&["diff", word]), "A /alpha\n", "{word}");
        assert_eq!(bench.ok(&["diff", &key, word]) + &bench.ok(&["diff", "--trees", &key, word]), "", "{word}");
        assert_eq!(bench.json(&["usage", word])["snapshots"][0]["name"], top, "{word}");
        assert_eq!(bench.ok(&["tree", word]), bench.ok(&["tree", top]), "{word}");
        bench.ok(&["rm", &key]);
    }
    bench.ok(&["label", short_top, "a=b"]);
    assert_eq!(bench.json(&["info", short_top])["labels"], json!({"a": "b"}));
    for word in ["alpha", short_id] {
        for arguments in [&["info", word][..], &["rm", word], &["mounts", word], &["label", word, "a=b"]] {
            assert!(bench.fails(arguments, "not_found").contains("is an image, and no snapshot"), "{arguments:?}");
        }
        assert_eq!(bench.json(&["history", word])[0]["layer"], top);
    }
    assert!(bench.fails(&["prepare", "k", "none"], "not_found").contains("there is no parent \"none\""));
    assert!(bench.fails(&["history", top], "not_found").contains("is a snapshot, and no image"));
    bench.fails(&["info", "sha256:"], "not_found");

    bench.ok(&["import", &format!("{}:alpha:latest", file.display()), "--name", "other"]);
    let said = bench.fails(&["rmi", short_id], "invalid_argument");
    assert!(said.contains("alpha, other"), "{said}");
    bench.ok(&["view", "look", short_id]);
    bench.ok(&["rm", "look"]);
    assert_eq!(bench.ok(&["rmi", "other", short_id]), "other\nalpha\n");
}

/// An import failed where a removal of the same image took away layers that the import had found.
#[test]
fn an_import_succeeds_beside_a_removal_of_the_same_image() {
    const IMPORTS: usize = 30;
    let Some(bench) = Bench::mounting() else { return };
    let tally = Tally::new("small");
    let path = bench.path("image.tar");
    fs::write(&path, archive(&["same"])).expect("write");
    let importing = |_: usize| bench.run(&["import", "--quiet", path.to_str().expect("UTF-8")]);
    std::thread::scope(|scope| {
        let imports = scope.spawn(|| (0..IMPORTS).map(importing).collect::<Vec<_>>());
        while !imports.is_finished() {
            let removed = bench.run(&["rmi", "same:latest"]);
            assert!(matches!(removed.status.code(), Some(0 | 1)), "{removed:?}");
        }
        for output in imports.join().expect("the imports") {
            assert!(output.status.success(), "{}", text(&output.stderr));
            tally.add(1, 0);
        }
    });
}
