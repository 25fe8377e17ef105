//! Commands that tell about snapshots: lists, one in detail, the space that they take.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::json;

use super::Done;
use super::images::names_by_top;
use super::names;
use super::output::{fields, size, table, time, time_short};
use super::session::Session;
use crate::backend;
use crate::error::ErrorKind;
use crate::snapshotter::{self, Labels, Snapshotter};

/// List snapshots
///
/// Those that are the topmost layer of an image stand with its name. A filter is of containerd's form, and of several
/// any may match: kind==active, parent==base, labels.role, 'name~=^sha256:'.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata ls --tree kind==committed")]
pub(super) struct Ls {
    /// Which ones
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Each below its parent
    #[arg(long)]
    tree: bool,
    /// Those of every owner: the command line's own are local, a daemon's have its name
    #[arg(long)]
    all: bool,
}

/// Tell what is known of one snapshot
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata info work --json")]
pub(super) struct Info {
    /// Its key or name, or the beginning of a digest
    key: String,
}

/// Tell how much space snapshots take, without their parents
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata usage work base")]
pub(super) struct Usage {
    /// Keys or names, images for their topmost layer; all snapshots without any
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
}

/// A snapshot as JSON has it.
#[derive(Debug, Serialize)]
pub(super) struct Described<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
    name: &'a str,
    kind: String,
    parent: Option<&'a str>,
    labels: &'a Labels,
    created: String,
    updated: String,
}

pub(super) fn describe(info: &snapshotter::Info) -> Described<'_> {
    Described {
        owner: None,
        name: &info.name,
        kind: info.kind.to_string(),
        parent: Some(info.parent.as_str()).filter(|parent| !parent.is_empty()),
        labels: &info.labels,
        created: time(info.created),
        updated: time(info.updated),
    }
}

impl Ls {
    pub fn run(&self, session: &Session) -> Done {
        let filters: Vec<&str> = self.filters.iter().map(String::as_str).collect();
        let mut found = Vec::new();
        let mut images = BTreeMap::new();
        if let Some(store) = session.find_store()? {
            images = names_by_top(&store)?;
            let mut find = |owner: &str, info: &snapshotter::Info| {
                found.push((owner.to_owned(), info.clone()));
                Ok(())
            };
            if self.all {
                store.walk_all(&filters, &mut find)?;
            } else {
                store.walk(&filters, &mut |info| find(store.owner(), info))?;
            }
        }
        if session.output.is_json() {
            let owner = |owner| if self.all { Some(owner) } else { None };
            let all: Vec<_> =
                found.iter().map(|(name, info)| Described { owner: owner(name.as_str()), ..describe(info) }).collect();
            return Ok(session.output.document(&all)?);
        }
        let rows = if self.tree { nested(&found) } else { found.iter().map(|found| (0, found)).collect() };
        Ok(session.output.text(&self.table(&rows, &images))?)
    }

    fn table(&self, rows: &[(usize, &Owned)], images: &BTreeMap<String, Vec<String>>) -> String {
        let mut headings = vec!["KEY", "KIND", "CREATED"];
        if !self.tree {
            headings.push("PARENT");
        }
        if self.all {
            headings.insert(0, "OWNER");
        }
        if !images.is_empty() {
            headings.push("IMAGE");
        }
        let cells = rows.iter().map(|(depth, (owner, info))| {
            let name = format!("{}{}", "  ".repeat(*depth), info.name);
            let mut cells = vec![name, info.kind.to_string(), time_short(info.created)];
            if !self.tree {
                cells.push(info.parent.clone());
            }
            if self.all {
                cells.insert(0, owner.clone());
            }
            cells.extend(images.get(&info.name).map(|names| names.join(", ")));
            cells
        });
        table(&headings, cells.collect())
    }
}

/// A snapshot and whose it is.
type Owned = (String, snapshotter::Info);

/// Each snapshot after its parent, with its depth. Where a filter left the parent out, it stands at the left.
fn nested(found: &[Owned]) -> Vec<(usize, &Owned)> {
    let mut children: BTreeMap<(&str, &str), Vec<&Owned>> = BTreeMap::new();
    let known: BTreeSet<_> = found.iter().map(|(owner, info)| (&owner[..], &info.name[..])).collect();
    let mut waiting = Vec::new();
    for one in found.iter().rev() {
        let parent = (&one.0[..], &one.1.parent[..]);
        if known.contains(&parent) {
            children.entry(parent).or_default().push(one);
        } else {
            waiting.push((0, one));
        }
    }
    let mut nested = Vec::with_capacity(found.len());
    while let Some((depth, one)) = waiting.pop() {
        nested.push((depth, one));
        let below = children.get(&(&one.0[..], &one.1.name[..]));
        waiting.extend(below.into_iter().flatten().map(|child| (depth + 1, *child)));
    }
    nested
}

impl Info {
    pub fn run(&self, session: &Session) -> Done {
        let store = session.store()?;
        let info = store.stat(&names::key(&store, &self.key)?)?;
        let diff_id = store.diff_id(&info.name)?;
        #[derive(Serialize)]
        struct Detailed<'a> {
            #[serde(flatten)]
            described: Described<'a>,
            diff_id: Option<crate::id::DiffId>,
        }
        let document = Detailed { described: Described { owner: Some(store.owner()), ..describe(&info) }, diff_id };
        Ok(session.output.either(&document, || {
            let mut rows = vec![("name", info.name.clone()), ("kind", info.kind.to_string())];
            if !info.parent.is_empty() {
                rows.push(("parent", info.parent.clone()));
            }
            rows.push(("created", time(info.created)));
            rows.push(("updated", time(info.updated)));
            if let Some(diff_id) = diff_id {
                rows.push(("diff id", diff_id.to_string()));
            }
            rows.extend(info.labels.iter().map(|(name, value)| ("label", format!("{name}={value}"))));
            fields(&rows)
        })?)
    }
}

impl Usage {
    pub fn run(&self, session: &Session) -> Done {
        let mut found: Vec<(String, backend::Usage)> = Vec::new();
        match (self.keys.as_slice(), session.find_store()?) {
            ([], None) => {}
            ([], Some(store)) => store.walk(&[], &mut |info| {
                match store.usage(&info.name) {
                    // Somebody removed it since it was listed.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    usage => found.push((info.name.clone(), usage?)),
                }
                Ok(())
            })?,
            (keys, store) => {
                let store = store.map_or_else(|| session.store(), Ok)?;
                for key in keys {
                    let name = names::snapshot(&store, key)?;
                    let usage = store.usage(&name)?;
                    found.push((name, usage));
                }
            }
        }
        let total = found.iter().fold(backend::Usage::default(), |total, (_, usage)| backend::Usage {
            size_bytes: total.size_bytes.saturating_add(usage.size_bytes),
            inodes: total.inodes.saturating_add(usage.inodes),
        });
        #[derive(Serialize)]
        struct Used<'a> {
            name: &'a str,
            #[serde(flatten)]
            usage: backend::Usage,
        }
        let snapshots: Vec<_> = found.iter().map(|(name, usage)| Used { name, usage: *usage }).collect();
        Ok(session.output.either(&json!({"snapshots": snapshots, "total": total}), || {
            let row = |name: &str, usage: &backend::Usage| {
                vec![name.to_owned(), size(usage.size_bytes), usage.inodes.to_string()]
            };
            let mut rows: Vec<_> = found.iter().map(|(name, usage)| row(name, usage)).collect();
            if rows.len() > 1 {
                rows.push(row("(total)", &total));
            }
            table(&["KEY", "SIZE", "INODES"], rows)
        })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshotter::Kind;
    use crate::tree::Timestamp;

    fn info(name: &str, parent: &str) -> Owned {
        let (created, updated) = (Timestamp::EPOCH, Timestamp::EPOCH);
        let (name, parent) = (name.to_owned(), parent.to_owned());
        (
            "local".to_owned(),
            snapshotter::Info { kind: Kind::Committed, name, parent, labels: Labels::new(), created, updated },
        )
    }

    #[test]
    fn trees_nest_children_below_their_parents() {
        let found = [info("a", ""), info("b", "d"), info("c", "a"), info("d", "a"), info("e", "not shown")];
        let nested: Vec<_> = nested(&found).into_iter().map(|(depth, (_, info))| (depth, &info.name[..])).collect();
        assert_eq!(nested, [(0, "a"), (1, "c"), (1, "d"), (2, "b"), (0, "e")]);
    }
}
