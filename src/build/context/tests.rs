use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A context with files of these names.
fn context(names: &[&str], ignored: &str) -> (tempfile::TempDir, Origin) {
    let dir = tempfile::tempdir().expect("a directory");
    for name in names {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(path, *name).expect("write");
    }
    let ignored = Ignored::parse(ignored, usize::MAX).expect("patterns");
    let origin = Origin::context(Dir::open(dir.path()).expect("open"), ignored).expect("a context");
    (dir, origin)
}

/// The paths that `source` stands for.
fn paths(origin: &mut Origin, source: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for selected in origin.select(source).unwrap_or_else(|error| panic!("{source}: {}", error.chain())) {
        let visit = &mut |path: &Path, _: &WalkEntry<'_>| {
            paths.push(selected.path.join(path).display().to_string().trim_end_matches('/').to_owned());
            Ok(())
        };
        origin.visit(&selected, visit).expect("visit");
    }
    paths
}

#[test]
fn patterns_match_in_one_component() {
    let (_dir, mut origin) = context(&["a.c", "b.c", "b.h", "d/a.c", "e/x/a.c", "{a}.c"], "");
    for (source, found) in [
        ("a.c", &["a.c"][..]),
        ("/a.c", &["a.c"]),
        ("./d/../a.c", &["a.c"]),
        ("*.c", &["a.c", "b.c", "{a}.c"]),
        ("?.[ch]", &["a.c", "b.c", "b.h"]),
        ("*/a.c", &["d/a.c"]),
        ("d", &["d", "d/a.c"]),
        ("{a}.c", &["{a}.c"]),
        (".", &["", "a.c", "b.c", "b.h", "d", "d/a.c", "e", "e/x", "e/x/a.c", "{a}.c"]),
    ] {
        assert_eq!(paths(&mut origin, source), found, "{source}");
    }
    for missing in ["z", "*.z", "a.c/x", "d/z/.."] {
        let kind = origin.select(missing).map(drop).map_err(|error| error.kind());
        assert!(matches!(kind, Err(ErrorKind::NotFound) | Ok(())), "{missing}: {kind:?}");
    }
}

#[test]
fn nothing_outside_is_reached() {
    let (dir, mut origin) = context(&["in/file"], "");
    symlink("/etc", dir.path().join("absolute")).expect("link");
    symlink("../../..", dir.path().join("in/up")).expect("link");
    symlink("in/file", dir.path().join("inside")).expect("link");
    for source in
        ["../x", "in/../../x", "absolute", "absolute/passwd", "in/up", "in/up/etc", "abs*/passwd", "in/u*/etc"]
    {
        let error = origin.select(source).expect_err(source);
        assert!(error.to_string().contains("leads out of the build context"), "{source}: {error}");
    }
    assert_eq!(paths(&mut origin, "inside"), ["in/file"]);
    // A link below a source is copied, not followed.
    assert_eq!(paths(&mut origin, "in"), ["in", "in/file", "in/up"]);
}

#[test]
fn dockerignore() {
    let names = ["a", "b/a", "b/c/a", "b/c/keep", "d/x.log", "d/y", "x.log"];
    for (text, left) in [
        ("", &["", "a", "b", "b/a", "b/c", "b/c/a", "b/c/keep", "d", "d/x.log", "d/y", "x.log"][..]),
        // Patterns begin at the root, unlike git's.
        ("a", &["", "b", "b/a", "b/c", "b/c/a", "b/c/keep", "d", "d/x.log", "d/y", "x.log"]),
        ("**/a\n# note\n/d/", &["", "b", "b/c", "b/c/keep", "x.log"]),
        ("b/\n!b/c/keep", &["", "a", "b", "b/c", "b/c/keep", "d", "d/x.log", "d/y", "x.log"]),
        ("**/*.log\n./b", &["", "a", "d", "d/y"]),
        ("*\n!d\nd/y", &["", "d", "d/x.log"]),
    ] {
        let (_dir, mut origin) = context(&names, text);
        assert_eq!(paths(&mut origin, "."), left, "{text:?}");
    }
    let (_dir, mut origin) = context(&names, "a");
    let error = origin.select("a").expect_err("left out");
    assert!(error.to_string().contains(".dockerignore"), "{error}");
}
