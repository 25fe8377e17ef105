//! The content of snapshots: mounts, trees, changes, layers, images.

use std::fs;

use serde_json::json;

use super::{Bench, text};

#[test]
fn mounting_and_layers() {
    let Some(bench) = Bench::mounting() else { return };
    let dir = bench.path("mnt");
    fs::create_dir(&dir).expect("mkdir");
    let at = dir.to_str().expect("UTF-8");
    let layer = bench.path("layer.tar");
    let file = layer.to_str().expect("UTF-8");

    bench.ok(&["prepare", "first"]);
    bench.ok(&["mount", "first", at]);
    fs::write(dir.join("kept"), "1").expect("write");
    fs::write(dir.join("gone"), "2").expect("write");
    let said = bench.fails(&["commit", "base", "first"], "failed_precondition");
    assert!(said.contains(at) && said.contains("strata umount"), "{said}");
    bench.fails(&["rm", "first"], "failed_precondition");
    bench.ok(&["umount", at]);
    bench.fails(&["umount", at], "failed_precondition");
    bench.ok(&["commit", "base", "first"]);

    bench.ok(&["prepare", "work", "base"]);
    bench.fails(&["mount", "work", bench.path("none").to_str().expect("UTF-8")], "not_found");
    assert_eq!(bench.ok(&["diff", "work"]), "");
    assert_eq!(bench.json(&["mount", "work", at]), json!({"key": "work", "target": at}));
    fs::remove_file(dir.join("gone")).expect("remove");
    fs::write(dir.join("a b\nM kept"), "3").expect("write");
    assert_eq!(bench.ok(&["tree", at]), bench.ok(&["tree", "work"]));
    bench.ok(&["umount", at]);
    assert_eq!(bench.ok(&["diff", "work"]), "M /\nD /gone\nA /a\\x20b\\x0aM\\x20kept\n");
    assert_eq!(bench.json(&["diff", "work"])[1], json!({"change": "D", "path": "/gone"}));
    assert_eq!(bench.ok(&["diff", "base"]), "M /\nA /gone\nA /kept\n");

    let diff_id = bench.ok(&["diff", "work", "--tar", file]);
    let digest = strata::id::Digest::of(&fs::read(&layer).expect("read"));
    assert_eq!(diff_id, format!("{digest}\n"));
    assert_eq!(bench.run(&["diff", "work", "--tar", "-"]).stdout, fs::read(&layer).expect("read"));
    for how in ["gzip", "zstd", "none"] {
        let written = bench.json(&["diff", "work", "--tar", file, "--compress", how]);
        let bytes = fs::read(&layer).expect("read");
        let digest = strata::id::Digest::of(&bytes).to_string();
        let expected =
            json!({"diff_id": diff_id.trim_end(), "digest": digest, "size_bytes": bytes.len(), "file": file});
        assert_eq!(written, expected, "{how}");
        let key = format!("from-{how}");
        bench.ok(&["prepare", &key, "base"]);
        bench.ok(&["apply", &key, file]);
        assert_eq!(bench.ok(&["diff", &key, "work"]), "");
    }
    assert_ne!(bench.ok(&["diff", "work", "--tar", file, "--mtime=seconds"]), diff_id, "times have nanoseconds here");
    assert_eq!(bench.ok(&["diff", "work", "--tar", file, "--mtime=nanoseconds"]), diff_id);
    bench.misuse(&["diff", "work", "--mtime=seconds"]);
    bench.misuse(&["diff", "work", "--tar", file, "--compress", "bzip2"]);
    bench.ok(&["prepare", "other", "base"]);
    bench.ok(&["apply", "other", file]);
    assert_eq!(bench.ok(&["diff", "other", "work"]), "");
    assert_eq!(bench.ok(&["tree", "other", "--digest"]), bench.ok(&["tree", "work", "--digest"]));
    assert_eq!(bench.json(&["tree", "base"])["inodes"][1]["path"], "gone");
}

#[test]
fn a_failed_layer_leaves_no_file() {
    let Some(bench) = Bench::mounting() else { return };
    bench.ok(&["prepare", "k"]);
    fs::create_dir(bench.path("out")).expect("mkdir");
    bench.fails(&["diff", "k", "none", "--tar", bench.path("out/layer").to_str().expect("UTF-8")], "not_found");
    bench.fails(&["diff", "k", "--tar", bench.path("none/layer").to_str().expect("UTF-8")], "not_found");
    assert_eq!(fs::read_dir(bench.path("out")).expect("out").count(), 0);
}

#[test]
fn damaged_archives() {
    let Some(bench) = Bench::mounting() else { return };
    bench.ok(&["prepare", "k"]);
    let layer = bench.path("layer");
    let name = layer.to_str().expect("UTF-8").to_owned();
    let gzip_magic_only = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &[0xff; 20]].concat();
    for bytes in [&b"no archive, but long enough"[..], &[b'x'; 2048], &gzip_magic_only] {
        fs::write(&layer, bytes).expect("write");
        let said = bench.fails(&["apply", "k", &name], "data_loss");
        assert!(said.contains(&name) && said.contains("\"k\""), "{said}");
    }
    fs::write(&layer, b"\xfd7zXZ\0\0\x04").expect("write");
    let said = bench.fails(&["apply", "k", &name], "unsupported");
    assert!(said.contains(&name) && said.contains("xz"), "{said}");
    bench.fails(&["apply", "k", bench.path("none").to_str().expect("UTF-8")], "not_found");
    // Tools write a layer without changes as an empty file.
    fs::write(&layer, b"").expect("write");
    bench.ok(&["apply", "k", &name]);
    bench.ok(&["rm", "k"]);
}

#[test]
fn limits_of_a_layer() {
    let Some(bench) = Bench::mounting() else { return };
    let layer = bench.path("layer");
    let name = layer.to_str().expect("UTF-8").to_owned();
    let two = strata::conformance::layers::notation::archive(&["f a \"x\"", "f b \"y\""]).expect("lines");
    fs::write(&layer, two).expect("write");
    bench.ok(&["prepare", "k"]);
    for limit in ["entries=1", "bytes=1K"] {
        let said = bench.fails(&["apply", "k", &name, "--limit", limit], "resource_exhausted");
        assert!(said.contains(&name), "{said}");
    }
    bench.ok(&["apply", "k", &name, "--limit", "entries=2", "--limit", "bytes=1M", "--limit", "ratio=1"]);
    for limit in ["entries=", "entries=x", "depth=1", "bytes=99999999T"] {
        assert_eq!(bench.run(&["apply", "k", &name, "--limit", limit]).status.code(), Some(2), "{limit}");
    }
    bench.ok(&["rm", "k"]);
}

/// Every aspect that two trees can differ in, each named once.
#[test]
fn the_differences_of_two_trees_are_explained() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let bench = Bench::bare();
    let (left, right) = (bench.path("left"), bench.path("right"));
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for (dir, other) in [(&left, false), (&right, true)] {
        std::fs::create_dir(dir).expect("mkdir");
        let write = |name: &str, content: &[u8]| {
            std::fs::write(dir.join(name), content).expect("write");
            let times = std::fs::FileTimes::new().set_modified(time);
            std::fs::File::options().write(true).open(dir.join(name)).expect("open").set_times(times).expect("times");
        };
        write("same", b"same");
        write("content", if other { b"right" } else { b"left!" });
        write("mode", b"");
        std::fs::set_permissions(dir.join("mode"), PermissionsExt::from_mode(if other { 0o600 } else { 0o644 }))
            .expect("chmod");
        symlink(if other { "right" } else { "left" }, dir.join("link")).expect("link");
        write("one", b"");
        if other {
            std::fs::hard_link(dir.join("one"), dir.join("two")).expect("link");
        } else {
            write("two", b"");
        }
        write("hole", &[0; 1 << 20]);
        if other {
            let file = std::fs::File::create(dir.join("hole")).expect("create");
            file.set_len(1 << 20).expect("truncate");
            file.set_times(std::fs::FileTimes::new().set_modified(time)).expect("times");
        }
    }
    std::fs::write(left.join("only"), "x").expect("write");
    let names = [left.to_str().expect("UTF-8"), right.to_str().expect("UTF-8")];
    let output = bench.run(&["diff", "--trees", names[0], names[1]]);
    let said = text(&output.stdout);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), ""), "{said}");
    for line in [
        "content: content: ",
        "hole: sparse: without holes in the first, with holes in the second",
        "link: target: left in the first, right in the second",
        "mode: mode: 0644 in the first, 0600 in the second",
        "one: links: - in the first, two in the second",
        "only: entry: regular file, only in the first",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("same"), "{said}");
    let same = bench.run(&["diff", "--trees", names[0], names[0]]);
    assert_eq!((same.status.code(), text(&same.stdout).as_str()), (Some(0), ""));
    bench.misuse(&["diff", "--trees", names[0]]);
}

/// With a store and without.
#[test]
fn a_directory_is_written_with_a_slash() {
    let Some(bench) = Bench::new() else { return };
    fs::create_dir(bench.path("dir")).expect("mkdir");
    fs::write(bench.path("file"), "").expect("write");
    let fails = |arguments: &[&str]| {
        let output = bench.command(arguments).current_dir(bench.path("")).output().expect("run");
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{arguments:?}");
        text(&output.stderr)
    };
    for _ in 0..2 {
        for arguments in
            [&["diff", "--trees", "dir", "./dir"][..], &["diff", "--trees", "./dir", "dir"], &["tree", "dir"]]
        {
            let said = fails(arguments);
            assert!(said.contains("\"dir\" is a directory") && said.ends_with("./dir\n"), "{arguments:?}: {said}");
        }
        let said = fails(&["tree", "file"]);
        assert!(!said.contains("directory is written"), "{said}");
        bench.ok(&["prepare", "k"]);
        bench.ok(&["rm", "k"]);
    }
    assert!(fails(&["tree", "file"]).contains("strata ls"));
}
