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
    let (dir, mut origin) = context(&["a.c", "b.c", "b.h", "d/a.c", "e/x/a.c", "{a}.c"], "");
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
    for missing in ["z", "a.c/x"] {
        assert_eq!(origin.select(missing).expect_err(missing).kind(), ErrorKind::NotFound, "{missing}");
    }
    // A link to itself is no directory; a pattern does not fail for it.
    symlink("loop", dir.path().join("loop")).expect("link");
    assert_eq!(paths(&mut origin, "*/*.c"), ["d/a.c"]);
    // A pattern may match nothing.
    assert!(origin.select("*.z").expect("nothing").is_empty());
}

#[test]
fn parents_and_excludes() {
    let (_dir, mut origin) = context(&["a.c", "d/a.c", "d/e/b.c", "d/e/b.h", "f/a.c"], "f");
    let mut picked = |source: &str, parents: bool, excludes: &[&str]| {
        let excluded = Arc::new(Ignored::of(excludes.iter().copied()).expect("patterns"));
        let mut paths = Vec::new();
        for selected in origin.pick(source, parents, &excluded).unwrap_or_else(|error| panic!("{source}: {error}")) {
            let visit = &mut |path: &Path, _: &WalkEntry<'_>| {
                paths.push(if selected.is_dir() { path.to_owned() } else { selected.path.clone() });
                Ok(())
            };
            origin.visit(&selected, visit).expect("visit");
        }
        paths.iter().map(|path| path.display().to_string()).filter(|path| !path.is_empty()).collect::<Vec<_>>()
    };
    for (source, parents, excludes, found) in [
        ("d/e/b.c", true, &[][..], &["d", "d/e", "d/e/b.c"][..]),
        ("d/./e/b.c", true, &[], &["e", "e/b.c"]),
        ("d/*/b.*", true, &["**/*.h"], &["d", "d/e", "d/e/b.c"]),
        ("./d/e", true, &[], &["d", "d/e", "d/e/b.c", "d/e/b.h"]),
        ("**/a.c", true, &[], &["a.c", "d", "d/a.c"]),
        ("nope*", true, &[], &[]),
        (".", false, &["**/*.c"], &["d", "d/e", "d/e/b.h"]),
        ("d", false, &["e", "!e/b.h"], &["a.c", "e", "e/b.h"]),
        ("*.c", false, &["a.*"], &[]),
    ] {
        assert_eq!(picked(source, parents, excludes), found, "{source}");
    }
    assert!(origin.pick("d/nope", true, &Arc::default()).is_err());
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
        // A pattern is relative to the root of the build context, unlike a pattern of git.
        ("a", &["", "b", "b/a", "b/c", "b/c/a", "b/c/keep", "d", "d/x.log", "d/y", "x.log"]),
        ("**/a\n# note\n/d/", &["", "b", "b/c", "b/c/keep", "x.log"]),
        ("b/\n!b/c/keep", &["", "a", "b", "b/c", "b/c/keep", "d", "d/x.log", "d/y", "x.log"]),
        ("**/*.log\n./b", &["", "a", "d", "d/y"]),
        ("*\n!d\nd/y", &["", "d", "d/x.log"]),
    ] {
        let (_dir, mut origin) = context(&names, text);
        assert_eq!(paths(&mut origin, "."), left, "{text:?}");
    }
    for (ignored, source) in [("a", "a"), ("d", "d"), ("d/y\nd", "d"), ("*\n!b/a", "d"), ("**x.log", "d/x.log")] {
        let (_dir, mut origin) = context(&names, ignored);
        let error = origin.select(source).expect_err("left out");
        assert!(error.to_string().contains(".dockerignore"), "{error}");
    }
    let (_dir, mut origin) = context(&names, "*\n!b/c/keep");
    assert_eq!(paths(&mut origin, "b"), ["b", "b/c", "b/c/keep"]);
    assert_eq!(paths(&mut origin, "?"), ["b", "b/c", "b/c/keep"]);
}
