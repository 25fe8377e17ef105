//! The paths that a source file names, as modules of the crate: `crate::`, `super::` and `self::`, in groups too.

use std::collections::{BTreeMap, BTreeSet};

use super::Source;

/// A path of the crate that a line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The line, from 0.
    pub line: usize,
    /// From the crate's root: `["tree", "walk", "Walk"]`.
    pub path: Vec<String>,
    /// In a `pub use`, the name by which others reach the item in this module.
    pub shown: Option<String>,
}

/// Returns the module that the file at `path` is: `["tree", "walk"]` for `src/tree/walk.rs`.
pub fn module_of(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
        parts.pop();
    }
    parts
}

/// Returns the paths that `source` names outside its tests.
pub fn named(source: &Source) -> Vec<Named> {
    let module = module_of(&source.path);
    let lines = source.code.iter().zip(&source.test).map(|(code, test)| if *test { "" } else { code.as_str() });
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = &code[..at];
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let statement = before.rsplit([';', '}']).next().unwrap_or_default().trim_start();
            let is_public = statement.starts_with("pub") && statement.ends_with("use ");
            let line = before.matches('\n').count();
            let Some((base, rest)) = base_of(&module, &code[at..]) else { continue };
            let mut leaves = Vec::new();
            leaves_of(rest, &base, &mut leaves);
            found.extend(leaves.into_iter().map(|(path, name)| Named { line, path, shown: is_public.then_some(name) }));
        }
    }
    found
}

/// Returns the module that the leading `crate`, `super` and `self` of `text` mean in `module`, and what follows them.
fn base_of<'a>(module: &[String], text: &'a str) -> Option<(Vec<String>, &'a str)> {
    if let Some(rest) = text.strip_prefix("crate::") {
        return Some((Vec::new(), rest));
    }
    let (mut base, mut rest) = (module.to_vec(), text.strip_prefix("self::").unwrap_or(text));
    while let Some(above) = rest.strip_prefix("super::") {
        base.pop()?;
        rest = above;
    }
    Some((base, rest))
}

/// Adds the paths of the `use` tree that `text` begins with, below `base`, each with its name in the file. Returns what
/// follows the tree.
fn leaves_of<'a>(text: &'a str, base: &[String], found: &mut Vec<(Vec<String>, String)>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut group) = text.strip_prefix('{') {
        loop {
            group = group.trim_start_matches([',', ' ', '\n']);
            match group.strip_prefix('}') {
                Some(rest) => return rest,
                None if group.is_empty() => return group,
                None => group = leaves_of(group, base, found),
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        // Macros and generics are not paths; one character on, so that a group ends.
        return text.get(1..).unwrap_or_default();
    }
    let mut path = base.to_vec();
    if name != "self" && name != "*" {
        path.push(name.to_owned());
    }
    match rest.strip_prefix("::") {
        Some(below) => leaves_of(below, &path, found),
        None => {
            let (name, rest) = match rest.trim_start().strip_prefix("as ") {
                None => (path.last().cloned().unwrap_or_default(), rest),
                Some(alias) => {
                    let end = alias.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(alias.len());
                    (alias[..end].to_owned(), &alias[end..])
                }
            };
            found.push((path, name));
            rest
        }
    }
}

/// Items that one module re-exports from another, by the path at which others find them.
pub type ReExports = BTreeMap<Vec<String>, Vec<String>>;

/// Returns the items that the files `sources` re-export.
pub fn re_exports(sources: &[Source]) -> ReExports {
    let mut all = ReExports::new();
    for source in sources {
        let module = module_of(&source.path);
        for Named { path, shown, .. } in named(source) {
            if let Some(name) = shown {
                all.insert([module.as_slice(), &[name]].concat(), path);
            }
        }
    }
    all
}

/// Returns circles of files inside a module, each by the paths of its files. A file and the `mod.rs` above it may name
/// each other.
pub fn circles(sources: &[Source]) -> Vec<Vec<String>> {
    let modules: Vec<Vec<String>> = sources.iter().map(|source| module_of(&source.path)).collect();
    let number: BTreeMap<&[String], usize> =
        modules.iter().enumerate().map(|(number, module)| (module.as_slice(), number)).collect();
    let file_of = |path: &[String]| (1..=path.len()).rev().find_map(|length| number.get(&path[..length]).copied());
    let is_beside = |one: &[String], other: &[String]| {
        one.first() == other.first() && !one.starts_with(other) && !other.starts_with(one)
    };
    let sees: Vec<BTreeSet<usize>> = sources
        .iter()
        .zip(&modules)
        .map(|(source, module)| {
            let seen = named(source).into_iter().filter_map(|named| file_of(&named.path));
            seen.filter(|seen| is_beside(&modules[*seen], module)).collect()
        })
        .collect();
    let reached: Vec<BTreeSet<usize>> = (0..sources.len()).map(|start| reachable(&sees, start)).collect();
    let mut circles = BTreeSet::new();
    for start in 0..sources.len() {
        let circle: Vec<String> = reached[start]
            .iter()
            .filter(|other| reached[**other].contains(&start))
            .map(|file| sources[*file].path.clone())
            .collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

/// Returns the files that `start` sees, directly or by others.
fn reachable(sees: &[BTreeSet<usize>], start: usize) -> BTreeSet<usize> {
    let mut reached = BTreeSet::new();
    let mut ahead: Vec<usize> = sees[start].iter().copied().collect();
    while let Some(next) = ahead.pop() {
        if reached.insert(next) {
            ahead.extend(&sees[next]);
        }
    }
    reached
}
