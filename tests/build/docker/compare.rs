//! The differences between an image of strata's and one of Docker's of the same Dockerfile.

use serde_json::{Map, Value};
use strata::tree::Node;
use strata::tree::memory::{Named, Tree};

/// Fields of a config that the reference leaves open: the shell form on Windows.
const OPEN: [&str; 1] = ["ArgsEscaped"];

/// An image as it is compared.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) config: Value,
    pub(crate) tree: Tree,
}

/// All differences, a line each.
pub(crate) fn differences(ours: &Image, theirs: &Image) -> Vec<String> {
    let mut found = Vec::new();
    for field in ["config", "author", "os", "architecture"] {
        let (our, their) = (stated(&ours.config[field]), stated(&theirs.config[field]));
        if our != their {
            found.push(format!("{field}: {our}, Docker has {their}"));
        }
    }
    found.extend(histories(&ours.config["history"], &theirs.config["history"]));
    found.extend(trees(&ours.tree, &theirs.tree));
    found
}

/// A value without the members that say nothing.
fn stated(value: &Value) -> Value {
    let says = |(name, value): &(&String, &Value)| {
        let is_empty = match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(members) => members.is_empty(),
            _ => false,
        };
        !is_empty && !OPEN.contains(&name.as_str())
    };
    match value.as_object() {
        Some(members) => {
            let kept = members.iter().filter(says).map(|(name, value)| (name.clone(), value.clone()));
            Value::Object(kept.collect::<Map<_, _>>())
        }
        None => value.clone(),
    }
}

/// The entries are as many, and each that made no layer with Docker made none here. strata makes no layer either where
/// nothing changed; the trees say whether that is so.
fn histories(ours: &Value, theirs: &Value) -> Option<String> {
    let empty = |history: &Value| {
        let entries = history.as_array().map(Vec::as_slice).unwrap_or_default();
        entries.iter().map(|entry| entry["empty_layer"] == Value::Bool(true)).collect::<Vec<_>>()
    };
    let (our, their) = (empty(ours), empty(theirs));
    let fits = our.len() == their.len() && our.iter().zip(&their).all(|(our, their)| *our || !*their);
    (!fits).then(|| format!("empty layers of the history: {our:?}, Docker has {their:?}"))
}

/// Paths, types, modes, owners, links, content and extended attributes: all but times.
fn trees(ours: &Tree, theirs: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for named in ours.iter() {
        let (path, our) = (named.path.display(), line(&named));
        match theirs.get(named.path).map(|named| line(&named)) {
            None => found.push(format!("/{path} {our}: Docker does not have it")),
            Some(their) if our != their => found.push(format!("/{path} {our}: Docker has {their}")),
            Some(_) => {}
        }
    }
    let missing = theirs.iter().filter(|named| ours.get(named.path).is_none());
    found.extend(missing.map(|named| format!("/{}: only Docker has it, {}", named.path.display(), line(&named))));
    found
}

fn line(named: &Named<'_>) -> String {
    let meta = &named.inode.meta;
    let node = match &meta.node {
        Node::Dir => "directory".to_owned(),
        other => format!("{other:?}"),
    };
    let content = named.inode.content.map(|digest| digest.to_string()).unwrap_or_default();
    let others: Vec<_> = named.names.iter().filter(|name| name.as_path() != named.path).collect();
    format!("{node} {:o} {}:{} {:?} {content} {others:?}", meta.mode, meta.uid, meta.gid, meta.xattrs)
}
