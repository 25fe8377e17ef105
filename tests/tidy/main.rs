//! The architecture as a test: which module may import which, and the house rules that no compiler checks.
//!
//! Plain text is scanned after separating code from comments and strings. Each offence is printed as `file:line: what`.

mod paths;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use paths::{Named, ReExports};

/// Maximum length of a function: a longer one does more than one thing.
const FUNCTION_LINES_MAX: usize = 60;

/// Maximum length of a test, which may be a table of cases.
const TEST_LINES_MAX: usize = 100;

/// Maximum length of a file: a longer one has more than one subject.
const FILE_LINES_MAX: usize = 500;

/// Maximum length of a file of tests, which may be tables of cases.
const TEST_FILE_LINES_MAX: usize = 700;

/// Maximum width of a comment, as `rustfmt.toml` sets it for code; rustfmt does not wrap comments.
const COMMENT_COLUMNS_MAX: usize = 120;

/// Maximum distance of a SAFETY comment above `unsafe`, for statements that are wrapped.
const SAFETY_LINES_MAX: usize = 6;

/// The modules from the bottom up. Each may use modules of lower levels, and those of its own level that [`SIBLINGS`]
/// lists.
const LEVELS: [&[&str]; 8] = [
    &["error", "fs_type", "id", "size", "store_files", "sys", "task"],
    &["tree", "mount"],
    &["changeset"],
    &["snapshotter", "backend", "container", "oci"],
    &["store", "backend::copy", "backend::overlay", "backend::btrfs", "backend::faulty"],
    &["backends", "door"],
    &["image", "build", "compare", "conformance"],
    &["cli", "containerd", "main"],
];

/// Pairs of modules on one level: the first may use the second.
const SIBLINGS: [(&str, &str); 9] = [
    ("id", "error"),
    ("fs_type", "error"),
    ("store_files", "id"),
    ("task", "error"),
    ("sys", "error"),
    ("snapshotter", "backend"),
    ("build", "image"),
    ("cli", "containerd"),
    ("main", "cli"),
];

/// Modules that may use the unsafe system calls in `sys`.
const SEES_SYS: [&str; 6] = ["mount", "backend", "changeset", "tree", "container", "conformance"];

/// Modules that may name a backend; all others use the trait.
const SEES_BACKENDS: [&str; 1] = ["backends"];

/// Generated code, made by `make proto`.
const GENERATED: &str = "src/containerd/proto/generated/";

/// One line that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Offence {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// A source file, split into lines.
struct Source {
    /// Path from the root of the package: `src/store/mod.rs`.
    path: String,
    /// Code without comments and without the content of strings.
    code: Vec<String>,
    /// The comments.
    comments: Vec<String>,
    /// The lines unchanged.
    lines: Vec<String>,
    /// True for lines that are compiled for tests only.
    test: Vec<bool>,
}

impl Source {
    fn new(path: &str, text: &str, is_test: bool) -> Self {
        let (code, comments) = separate(text);
        let test = if is_test { vec![true; code.len()] } else { test_lines(&code) };
        Self { path: path.to_owned(), code, comments, lines: text.lines().map(str::to_owned).collect(), test }
    }

    /// Returns true for code of the library below the command line, which has the strictest rules.
    fn is_library(&self, line: usize) -> bool {
        self.path.starts_with("src/") && !matches!(self.module(), "cli" | "main") && !self.test[line]
    }

    /// Returns the module of the file, as named in [`LEVELS`].
    fn module(&self) -> &str {
        let path = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let mut parts = path.split('/').map(|part| part.trim_end_matches(".rs"));
        let (first, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let named = LEVELS.concat().into_iter().find(|name| *name == format!("{first}::{second}"));
        named.unwrap_or(first)
    }
}

/// Separates code from comments and the content of strings; each result has as many lines as the text.
fn separate(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut code, mut comments) = (String::new(), String::new());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, is_comment) = match first {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), true),
            '/' if rest.starts_with("/*") => (rest.find("*/").map_or(rest.len(), |end| end + 2), true),
            '"' => (string_length(rest), false),
            'r' | 'b' | 'c' if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') => {
                (prefixed_length(rest), false)
            }
            '\'' => (character_length(rest), false),
            _ => (first.len_utf8(), false),
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        let blank = || token.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect::<String>();
        if is_comment {
            comments.push_str(token);
            code.push_str(&blank());
        } else if token.len() > first.len_utf8() {
            comments.push_str(&blank());
            code.push_str(&blank());
        } else {
            comments.push(if first == '\n' { '\n' } else { ' ' });
            code.push(first);
        }
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect();
    (lines(&code), lines(&comments))
}

/// Returns the length of a string in quotes.
fn string_length(text: &str) -> usize {
    let mut escaped = true;
    for (index, byte) in text.bytes().enumerate() {
        if byte == b'"' && !escaped {
            return index + 1;
        }
        escaped = index > 0 && byte == b'\\' && !escaped;
    }
    text.len()
}

/// Returns the length of a string with a prefix, such as `br#"..."#`; 1 if it is only a letter.
fn prefixed_length(text: &str) -> usize {
    let quote = text.find(|c: char| !matches!(c, 'r' | 'b' | 'c' | '#')).unwrap_or(text.len());
    let (prefix, string) = text.split_at(quote);
    if !string.starts_with('"') || prefix.len() > 3 + prefix.matches('#').count() {
        return 1;
    }
    if !prefix.contains('r') {
        return quote + string_length(string);
    }
    let end = format!("\"{}", "#".repeat(prefix.matches('#').count()));
    string[1..].find(&end).map_or(text.len(), |at| quote + 1 + at + end.len())
}

/// Returns the length of a character in quotes; 1 if the quote begins a lifetime.
fn character_length(text: &str) -> usize {
    let inner = &text[1..];
    let end = if inner.starts_with('\\') { inner[2..].find('\'').map(|at| at + 2) } else { inner.find('\'') };
    match end {
        Some(end) if inner.starts_with('\\') || inner[..end].chars().count() == 1 => end + 2,
        _ => 1,
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Returns the last line of the item that begins at `first`, in code formatted by rustfmt.
fn item_end(code: &[String], first: usize) -> usize {
    let depth = indent(&code[first]);
    let ends = |line: &String| indent(line) == depth && line.trim_end().ends_with(['}', ';']);
    (first..code.len()).find(|line| ends(&code[*line])).unwrap_or(code.len().saturating_sub(1))
}

/// Returns true for each line of an item behind `#[cfg(test)]`.
fn test_lines(code: &[String]) -> Vec<bool> {
    let mut test = vec![false; code.len()];
    for line in 0..code.len() {
        if code[line].trim() == "#[cfg(test)]" && !test[line] {
            test[line..=item_end(code, line)].fill(true);
        }
    }
    test
}

/// Returns the words of `line` directly before `follower`.
fn words_before<'a>(line: &'a str, follower: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(follower).map(move |(at, _)| {
        let start = line[..at].rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |before| before + 1);
        &line[start..at]
    })
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

/// Applies every rule to one file.
fn check(source: &Source, re_exports: &ReExports) -> Vec<Offence> {
    let mut offences = Vec::new();
    let mut note = |line: usize, what: String| {
        offences.push(Offence { path: source.path.clone(), line: line + 1, what });
    };
    let lines_max = if source.test.first() == Some(&true) { TEST_FILE_LINES_MAX } else { FILE_LINES_MAX };
    if source.code.len() > lines_max {
        note(0, format!("the file has {} lines: more than {lines_max}", source.code.len()));
    }
    imports(source, re_exports).into_iter().for_each(|(line, what)| note(line, what));
    for line in 0..source.code.len() {
        let rules = [
            long_function,
            hidden_danger,
            foreign_sql,
            leftover,
            wide_comment,
            nameless_subject,
            ignored,
            library_only,
        ];
        rules.iter().filter_map(|rule| rule(source, line)).for_each(|what| note(line, what));
    }
    offences
}

/// Returns the lines of `source` that name what its module may not see, directly or through a re-export.
fn imports(source: &Source, re_exports: &ReExports) -> Vec<(usize, String)> {
    let from = source.module();
    if !source.path.starts_with("src/") || from == "lib" {
        return Vec::new();
    }
    let mut offences = Vec::new();
    for Named { line, path, .. } in paths::named(source) {
        let shown = target(&path);
        let origin = re_exports.get(&path).map(|origin| target(origin)).filter(|origin| !may_see(from, origin));
        if !may_see(from, &shown) {
            offences.push((line, format!("{from} imports {shown}, which is above or beside it")));
        } else if let Some(origin) = origin {
            offences.push((line, format!("{from} imports {origin}, which is above or beside it, by {shown}")));
        }
    }
    offences
}

/// Returns the module, as [`LEVELS`] names it, of a path from the crate's root.
fn target(path: &[String]) -> String {
    let first = match path.first().map_or("", String::as_str) {
        "Error" | "ErrorKind" | "Result" => "error",
        "Snapshotter" => "snapshotter",
        first => first,
    };
    let whole = format!("{first}::{}", path.get(1).map_or("", String::as_str));
    if level(&whole).is_some() { whole } else { first.to_owned() }
}

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&module))
}

fn may_see(from: &str, to: &str) -> bool {
    let top = |module: &str| module.split("::").next().map(str::to_owned);
    if from == to || (to == "backend" && top(from).as_deref() == Some("backend")) {
        return true;
    }
    let named = to.starts_with("backend::") && !SEES_BACKENDS.contains(&from);
    let dangerous = to == "sys" && !SEES_SYS.iter().any(|seer| top(from).as_deref() == Some(*seer));
    match (level(from), level(to)) {
        (Some(here), Some(there)) if there < here => !named && !dangerous,
        (Some(here), Some(there)) => here == there && SIBLINGS.contains(&(from, to)),
        _ => false,
    }
}

/// Returns the name and the length of the function with a body that begins at `line`.
fn function(source: &Source, line: usize) -> Option<(&str, usize)> {
    let code = &source.code[line];
    let name = code.split("fn ").nth(1)?.split(['(', '<']).next()?.trim();
    // A type `fn(A) -> B` has no name.
    if name.is_empty() || !has_word(code, "fn") || code.trim_end().ends_with(';') {
        return None;
    }
    Some((name, item_end(&source.code, line) - line + 1))
}

fn long_function(source: &Source, line: usize) -> Option<String> {
    let (name, lines) = function(source, line)?;
    let most = if source.test[line] { TEST_LINES_MAX } else { FUNCTION_LINES_MAX };
    (lines > most).then(|| format!("the function {name} has {lines} lines"))
}

fn hidden_danger(source: &Source, line: usize) -> Option<String> {
    if !has_word(&source.code[line], "unsafe") {
        return None;
    }
    if source.module() != "sys" {
        return Some("unsafe code outside src/sys".to_owned());
    }
    let near = &source.comments[line.saturating_sub(SAFETY_LINES_MAX)..=line];
    let reason = |comment: &String| comment.contains("SAFETY:") || comment.contains("# Safety");
    (!near.iter().any(reason)).then(|| "unsafe code without a SAFETY comment".to_owned())
}

/// Refuses SQLite outside the modules of the store's database.
fn foreign_sql(source: &Source, line: usize) -> Option<String> {
    let is_foreign = source.path.starts_with("src/") && !source.path.starts_with("src/store/db") && !source.test[line];
    (is_foreign && has_word(&source.code[line], "rusqlite")).then(|| "SQL outside src/store/db".to_owned())
}

/// Refuses marks and stubs of unfinished work.
fn leftover(source: &Source, line: usize) -> Option<String> {
    let mark = ["TODO", "FIXME", "XXX"].into_iter().find(|mark| has_word(&source.comments[line], mark));
    let stub =
        ["todo", "unimplemented"].into_iter().find(|stub| words_before(&source.code[line], "!(").any(|w| w == *stub));
    mark.or(stub).map(|left| format!("{left} was left"))
}

/// Refuses a comment line that begins with What, Who or a form of them: its subject is not a thing with a name.
fn nameless_subject(source: &Source, line: usize) -> Option<String> {
    let text = source.comments[line].trim_start().trim_start_matches(['/', '!']);
    let first = text.split_whitespace().next()?;
    let word = ["What", "Whatever", "Who", "Whoever", "Whom", "Whose"].into_iter().find(|word| *word == first)?;
    Some(format!("a comment that begins with {word}"))
}

/// Refuses comments that are too wide, except rows of tables, which cannot be wrapped.
fn wide_comment(source: &Source, line: usize) -> Option<String> {
    let text = source.lines[line].trim_start();
    let is_prose = text.starts_with("//") && !text.contains(" | ");
    let columns = source.lines[line].chars().count();
    (is_prose && columns > COMMENT_COLUMNS_MAX).then(|| format!("a comment of {columns} columns"))
}

fn ignored(source: &Source, line: usize) -> Option<String> {
    let ignore = source.code[line].trim_start().starts_with("#[ignore");
    let children = source.lines[line].contains(r#"= "waits to be killed""#);
    (ignore && !children).then(|| "a test is ignored".to_owned())
}

/// Refuses calls that only the command line and tests may make.
fn library_only(source: &Source, line: usize) -> Option<String> {
    let code = &source.code[line];
    if code.contains(".unwrap()") && source.path.starts_with("src/") && !source.test[line] {
        return Some("unwrap outside tests".to_owned());
    }
    if !source.is_library(line) {
        return None;
    }
    let prints = ["println", "eprintln", "print", "eprint", "dbg"];
    if words_before(code, "!(").any(|word| prints.contains(&word)) {
        return Some("printing below the command line".to_owned());
    }
    // `env!` reads the environment of the build, not of the process.
    let code = code.replace("std::env::consts", "");
    let reads = code.contains("std::env") || words_before(&code, "::var").any(|word| word == "env");
    reads.then(|| "reading the environment below the command line".to_owned())
}

/// Collects every Rust file below `dir`.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Returns the files (without `.rs`) of the modules that `path` declares for tests only.
fn test_modules(path: &str, text: &str) -> Vec<String> {
    let (code, _) = separate(text);
    let base = path.trim_end_matches(".rs");
    let dir = match base.rsplit_once('/') {
        Some((dir, "mod" | "lib" | "main")) => dir,
        _ => base,
    };
    let test = test_lines(&code);
    let declared = |line: usize| code[line].trim().strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| name);
    (0..code.len()).filter(|line| test[*line]).filter_map(declared).map(|name| format!("{dir}/{name}")).collect()
}

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    ["src", "tests", "benches"].iter().for_each(|dir| files(&root.join(dir), &mut paths));
    paths.sort();
    let texts: Vec<(String, String)> = paths
        .iter()
        .map(|path| (path.strip_prefix(root).expect("below the root").display().to_string(), path))
        .filter(|(shown, _)| !shown.starts_with(GENERATED))
        .map(|(shown, path)| (shown, fs::read_to_string(path).expect("read")))
        .collect();
    assert!(texts.len() > 50, "{} files: the scan is at the wrong place", texts.len());
    let for_tests: BTreeSet<String> = texts.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    let is_test = |path: &str| {
        !path.starts_with("src/")
            || for_tests
                .iter()
                .any(|test| path.strip_prefix(test.as_str()).is_some_and(|rest| rest.starts_with(['.', '/'])))
    };
    let sources: Vec<Source> = texts.iter().map(|(path, text)| Source::new(path, text, is_test(path))).collect();
    let re_exports = paths::re_exports(&sources);
    let of_files = sources.iter().flat_map(|source| check(source, &re_exports)).map(|offence| offence.to_string());
    let circles = paths::circles(&sources).into_iter().map(|circle| format!("a circle: {}", circle.join(", ")));
    let offences: Vec<String> = of_files.chain(circles).collect();
    println!("{}", figures(&sources));
    assert!(offences.is_empty(), "{} offences:\n{}", offences.len(), offences.join("\n"));
}

/// Returns a line with the lengths of files and functions outside tests and generated code:
/// `cargo test --test tidy -- --nocapture` shows it.
fn figures(sources: &[Source]) -> String {
    let is_ours = |source: &&Source| source.path.starts_with("src/") && source.test.first() != Some(&true);
    let mut files: Vec<usize> = sources.iter().filter(is_ours).map(|source| source.code.len()).collect();
    let lengths = |source: &Source| -> Vec<usize> {
        let ours = (0..source.code.len()).filter(|line| !source.test[*line]);
        ours.filter_map(|line| function(source, line).map(|(_, lines)| lines)).collect()
    };
    let mut functions: Vec<usize> = sources.iter().filter(is_ours).flat_map(lengths).collect();
    files.sort_unstable();
    functions.sort_unstable();
    let of = |all: &[usize]| format!("{}, median {}, longest {}", all.len(), all[all.len() / 2], all[all.len() - 1]);
    format!("lines: files {}; functions {}", of(&files), of(&functions))
}

/// Returns the offences in `text` at `path`.
fn found(path: &str, text: &str) -> Vec<(usize, String)> {
    let source = Source::new(path, text, !path.starts_with("src/"));
    check(&source, &ReExports::new()).into_iter().map(|o| (o.line, o.what)).collect()
}

#[test]
fn paths_are_read_with_super_groups_and_names_of_their_own() {
    let text = "use super::overlay::Overlay;\nuse crate::{Error, tree::{self, walk::Walk as W}};\nfn a(b: &super::Backend) {}\n";
    let source = Source::new("src/backend/copy/manifest.rs", text, false);
    let mut found: Vec<String> =
        paths::named(&source).iter().map(|named| format!("{} {}", named.line, named.path.join("::"))).collect();
    found.sort();
    let expected =
        ["0 backend::copy::overlay::Overlay", "1 Error", "1 tree", "1 tree::walk::Walk", "2 backend::copy::Backend"];
    assert_eq!(found, expected);
}

#[test]
fn a_re_export_hides_nothing() {
    let sources = [
        Source::new("src/image/mod.rs", "pub use crate::store::{Store, Image as Stored};\n", false),
        Source::new("src/backends.rs", "pub use crate::backend::copy::STRATEGY as COPY;\n", false),
    ];
    let user = Source::new("src/cli/a.rs", "use crate::backends::COPY;\nuse crate::image::Store;\n", false);
    let offences: Vec<_> = imports(&user, &paths::re_exports(&sources)).into_iter().map(|(_, what)| what).collect();
    assert_eq!(offences, ["cli imports backend::copy, which is above or beside it, by backends"]);
}

#[test]
fn circles_of_files_are_found() {
    let source = |path: &str, text: &str| Source::new(path, text, false);
    let sources = [
        source("src/tree/mod.rs", "use self::walk::Walk;\n"),
        source("src/tree/walk.rs", "use super::Dir;\nuse super::text::Text;\n"),
        source("src/tree/text.rs", "fn a(b: super::deep::Deep) {}\n"),
        source("src/tree/deep.rs", "use crate::tree::{walk};\n"),
        source("src/tree/alone.rs", "use super::walk;\n"),
    ];
    assert_eq!(
        paths::circles(&sources),
        [["src/tree/walk.rs", "src/tree/text.rs", "src/tree/deep.rs"].map(str::to_owned).to_vec()]
    );
}

/// Each rule finds the offence planted for it.
#[test]
fn planted_offences_are_found() {
    let function = |lines: usize| format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines));
    let (long, longer) = (function(FUNCTION_LINES_MAX), function(TEST_LINES_MAX));
    let wide = format!("/// {}\n", "a".repeat(COMMENT_COLUMNS_MAX));
    let planted: [(&str, &str, &str); 29] = [
        ("src/tree/walk.rs", "use crate::changeset::Sink;\n", "tree imports changeset"),
        ("src/tree/walk.rs", "use crate::mount::Mount;\n", "tree imports mount"),
        ("src/tree/walk.rs", "use crate::{Error, Snapshotter};\n", "tree imports snapshotter"),
        ("src/store/rows.rs", "fn a(b: &crate::backends::Config) {}\n", "store imports backends"),
        ("src/store/rows.rs", "use crate::backend::btrfs::Btrfs;\n", "store imports backend::btrfs"),
        ("src/store/rows.rs", "use crate::sys::btrfs;\n", "store imports sys"),
        ("src/backend/copy/mod.rs", "use super::overlay::Overlay;\n", "backend::copy imports backend::overlay"),
        ("src/backend/copy/manifest.rs", "use crate::store::Store;\n", "backend::copy imports store"),
        ("src/image/mod.rs", "use crate::backend::copy::Copy;\n", "image imports backend::copy"),
        ("src/id.rs", "use crate::newcomer::Thing;\n", "id imports newcomer"),
        ("src/store/a.rs", &long, "the function long has 62 lines"),
        ("tests/backends/a.rs", &longer, "the function long has 102 lines"),
        ("src/store/a.rs", &"\n".repeat(FILE_LINES_MAX + 1), "the file has 501 lines"),
        ("tests/tidy/a.rs", &"\n".repeat(TEST_FILE_LINES_MAX + 1), "the file has 701 lines"),
        ("src/store/image.rs", "use rusqlite::params;", "SQL outside src/store/db"),
        ("tests/a.rs", &wide, "a comment of 124 columns"),
        ("src/tree/a.rs", "// SAFETY: none.\nunsafe { a() }\n", "unsafe code outside"),
        ("tests/a.rs", "unsafe { a() }\n", "unsafe code outside"),
        ("src/sys/a.rs", "let b = unsafe { a() };\n", "unsafe code without"),
        ("src/store/a.rs", "println!(\"a\");\n", "printing"),
        ("src/store/a.rs", "std::eprint!(\"a\");\n", "printing"),
        ("src/mount/a.rs", "let a = std::env::var(\"A\");\n", "reading the environment"),
        ("src/cli/a.rs", "// TODO: more\n", "TODO was left"),
        ("src/id.rs", "/// What it is.\n", "begins with What"),
        ("tests/a.rs", "    // Whoever asks.\n", "begins with Whoever"),
        ("tests/a.rs", "todo!(\"later\")\n", "todo was left"),
        ("tests/a.rs", "#[ignore = \"slow\"]\nfn a() {}\n", "a test is ignored"),
        ("src/cli/a.rs", "let a = b.unwrap();\n", "unwrap outside tests"),
        ("src/id.rs", "#[cfg(test)]\nuse b;\nfn a() { b.unwrap() }\n", "unwrap outside tests"),
    ];
    for (path, text, expected) in planted {
        let found = found(path, text);
        assert_eq!(found.len(), 1, "{path}: {text:?}: {found:?}");
        assert!(found[0].1.contains(expected), "{path}: {:?} is not {expected:?}", found[0].1);
    }
}

#[test]
fn what_is_allowed_passes() {
    let allowed = [
        ("src/store/a.rs", "use crate::backend::Backend;\nuse crate::{Error, error::Context};\n"),
        ("src/snapshotter.rs", "use crate::backend::Usage;\n"),
        ("src/backends.rs", "use crate::backend::btrfs::Btrfs;\nuse crate::store::Store;\n"),
        ("src/backend/btrfs/usage.rs", "use crate::sys::btrfs as sys;\nuse crate::backend::Usage;\n"),
        ("src/store/a.rs", "//! See [`crate::backends::open`]; unsafe, println!(), .unwrap().\n"),
        ("src/store/a.rs", "const A: &str = \"use crate::cli; unsafe { todo!() } // TODO\";\n"),
        ("src/store/a.rs", "const A: &str = r#\"\"unsafe\"#; const B: char = '\"'; const C: &str = \"unsafe\";\n"),
        ("src/store/a.rs", "fn a<'a>(b: &'a str) -> &'a str { b.trim_matches('\\'') }\n"),
        ("src/store/a.rs", "#[cfg(test)]\nmod tests {\n    fn a() {\n        println!(); b.unwrap();\n    }\n}\n"),
        ("src/sys/a.rs", "// SAFETY: the descriptor is open.\nlet b = unsafe { a() };\n"),
        ("src/cli/a.rs", "println!();\nlet a = std::env::var(\"A\");\n"),
        ("src/image/a.rs", "let arch = std::env::consts::ARCH;\n"),
        ("src/store/a.rs", "let version = env!(\"CARGO_PKG_VERSION\");\n"),
        ("src/id.rs", "/// Whole seconds.\nconst A: &str = \"What\"; // what follows\n"),
        ("tests/a.rs", "#[ignore = \"waits to be killed\"]\nfn a() { b.unwrap() }\n"),
    ];
    for (path, text) in allowed {
        assert_eq!(found(path, text), [], "{path}: {text:?}");
    }
}

#[test]
fn modules_for_tests_are_told_by_their_declaration() {
    let text = "mod a;\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\npub(crate) mod sample;\n";
    assert_eq!(test_modules("src/tree/mod.rs", text), ["src/tree/tests", "src/tree/sample"]);
    assert_eq!(test_modules("src/backend/copy.rs", text), ["src/backend/copy/tests", "src/backend/copy/sample"]);
}
