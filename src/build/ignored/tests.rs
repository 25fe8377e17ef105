use std::time::Duration;

use super::*;
use crate::build::growth::cpu_time;

/// Decides like [`Ignored::covers`], by a simple implementation that tries each pattern, the last one first.
fn one_by_one(text: &str, path: &Path) -> bool {
    let matches = |pattern: &str| {
        let regex = regex::bytes::Regex::new(&expression(pattern).expect("a pattern")).expect("an expression");
        path.ancestors().any(|above| !above.as_os_str().is_empty() && regex.is_match(above.as_os_str().as_bytes()))
    };
    let patterns: Vec<(bool, String)> = text.lines().filter_map(pattern).collect();
    patterns.iter().rev().find(|(_, pattern)| matches(pattern)).is_some_and(|(out, _)| *out)
}

/// Each pattern with a path that it matches, and one that it does not.
#[test]
fn patterns() {
    for (pattern, matched, other) in [
        ("a*", "abc", "b/a"),
        ("**x", "a/b/x", "a/bx"),
        ("**x", "x", "y"),
        ("a**b", "a/c/b", "acb"),
        ("a**", "ab/c", "ba"),
        ("a/**", "a/b/c", "ab"),
        ("**/a", "a", "ba"),
        ("a?c", "a\u{e9}c", "a/c"),
        ("[a-c]x", "bx", "dx"),
        ("[^a]x", "bx", "ax"),
        ("[]]x", "]x", "ax"),
        ("a.{b}", "a.{b}", "axb"),
        ("\\*", "*", "a"),
        ("a+$", "a+$", "aa"),
    ] {
        let ignored = Ignored::of([pattern]).expect("a pattern");
        let covered = [matched, other].map(|path| ignored.covers(Path::new(path)));
        assert_eq!(covered, [true, false], "{pattern}");
    }
    for wrong in ["[a", "a\\", "[z-a]"] {
        assert!(Ignored::of([wrong]).is_err(), "{wrong}");
    }
}

/// Sets of every kind of pattern, in every order of two or three.
#[test]
fn the_last_pattern_decides() {
    let patterns = ["a", "*.c", "!a/b", "**/b", "!**/*.c", "a/*", "?", "!a/**", "[ab]/c", "!a/b/c.c", "**", "b/../a"];
    let paths = ["a", "b", "a/b", "a/b/c.c", "x.c", "a/x.c", "b/c", "d/e/b", "a/b/d"];
    for one in patterns {
        for two in patterns {
            for three in ["", "!a", "**/c.c", "!b/c"] {
                let text = format!("{one}\n{two}\n{three}\n");
                let ignored = Ignored::parse(&text, 3).expect("patterns");
                for path in paths.map(Path::new) {
                    assert_eq!(ignored.covers(path), one_by_one(&text, path), "{text:?}: {}", path.display());
                }
            }
        }
    }
}

/// The order of patterns counts across sets.
#[test]
fn later_sets_decide() {
    let filler: String = (0..SET_PATTERNS_MAX).map(|n| format!("filler{n}\n")).collect();
    let ignored = Ignored::parse(&format!("a\n{filler}!a/b\n{filler}a/b/c\n"), 10_000).expect("patterns");
    let covered = ["a", "a/b", "a/b/c", "filler7", "x"].map(|path| ignored.covers(Path::new(path)));
    assert_eq!(covered, [true, false, true, true, false]);
}

#[test]
fn patterns_are_bounded() {
    let error = |text: &str, max| Ignored::parse(text, max).expect_err("too much").chain();
    assert_eq!(error("a\n#\nb\n", 1), ".dockerignore has more than 1 patterns: --limit patterns=NUMBER allows more");
    let long = "?".repeat(PATTERN_BYTES_MAX);
    assert!(Ignored::parse(&long, 1).is_ok());
    assert!(error(&(long + "?"), 1).contains("is longer than 4096 bytes"));
}

/// How long it takes to compare 200 paths with `count` patterns of several kinds.
fn comparing(count: usize) -> Duration {
    let text: String = (0..count).map(|n| format!("**/x{n}/*.[ab]\nlib{n}/?\n!y{n}\n**/*.e{n}\n")).collect();
    let ignored = Ignored::parse(&text, usize::MAX).expect("patterns");
    let paths: Vec<String> = (0..200).map(|n| format!("src/lib{n}/deep/er/file{n}.a")).collect();
    cpu_time(|| assert!(!paths.iter().any(|path| ignored.covers(Path::new(path)))))
}

#[test]
fn many_patterns_take_linear_time() {
    let (few, many) = (comparing(500), comparing(2000));
    assert!(many < few * 8, "{few:?}, {many:?}");
}
