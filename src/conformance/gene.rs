//! Scripts as numbers: each [`Gene`] stands for one operation on the current state of a model.

use std::path::Path;

use crate::snapshotter::Kind;
use crate::tree::memory::Tree;
use crate::tree::{Device, FileType, Timestamp};

use super::model::Model;
use super::ops::{ACL, Edit, FileContent, Op, access_list};
use super::possible::{WHITEOUT_NAME_MAX, possible, type_at};

/// Numbers that stand for one operation of a script. [`Model::interpret`] turns them into an operation for the current
/// state of the model. Scripts of numbers shrink well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gene(pub u8, pub u16, pub u16, pub u16);

/// Returns file names for trees: a few ordinary ones, so that operations meet, and some unusual ones.
fn names() -> [Vec<u8>; 12] {
    [
        b"a".to_vec(),
        b"b".to_vec(),
        b"c".to_vec(),
        b"d".to_vec(),
        b"lib".to_vec(),
        b"a b\n\\x".to_vec(),
        b"\xff\xfe".to_vec(),
        vec![b'n'; WHITEOUT_NAME_MAX],
        vec![b'm'; 255],
        b"..x".to_vec(),
        "\u{e9}".into(),
        b".wh.a".to_vec(),
    ]
}

impl Model {
    /// Returns the operation that `gene` stands for in the current state, at step `step` of the script; `None` if no
    /// possible operation corresponds.
    pub fn interpret(&self, gene: Gene, step: usize) -> Option<Op> {
        let Gene(kind, a, b, c) = gene;
        let keys: Vec<&String> = self.snapshots.keys().collect();
        let any_key = |n: u16| pick(&keys, n).map_or_else(|| "none".to_owned(), |key| (*key).clone());
        let committed: Vec<&String> = self.of_kind(Kind::Committed);
        let parent = |n: u16| {
            if n.is_multiple_of(4) {
                String::new()
            } else {
                pick(&committed, n).map_or(String::new(), |key| (*key).clone())
            }
        };
        let new = |n: u16| if n.is_multiple_of(16) { any_key(n / 16) } else { format!("s{step}") };
        let op = match kind {
            0..=19 => Op::Prepare { key: new(a), parent: if b % 32 == 0 { any_key(c) } else { parent(b) } },
            20..=25 => Op::View { key: new(a), parent: parent(b) },
            26..=45 => {
                let active = self.of_kind(Kind::Active);
                let key = pick(&active, b).filter(|_| c % 16 != 0).map_or_else(|| any_key(c), |key| (*key).clone());
                Op::Commit { name: new(a), key }
            }
            46..=53 => Op::Remove { key: any_key(a) },
            _ => {
                let active = self.of_kind(Kind::Active);
                let key = (*pick(&active, a)?).clone();
                let snapshot = self.snapshots.get(&key)?;
                let parent = self.snapshots.get(&snapshot.parent).map(|parent| &parent.tree);
                let edit = edit_of(&snapshot.tree, kind - 54, b, c)?;
                if !possible(&snapshot.tree, parent, &edit) {
                    return None;
                }
                let step = i64::try_from(step).ok()?;
                Op::Edit { key, edit, time: Timestamp { seconds: 1_000_000_000 + step, nanos: 123_456_789 } }
            }
        };
        Some(op)
    }

    fn of_kind(&self, kind: Kind) -> Vec<&String> {
        self.snapshots.iter().filter(|(_, snapshot)| snapshot.kind == kind).map(|(key, _)| key).collect()
    }
}

fn pick<T>(from: &[T], n: u16) -> Option<&T> {
    if from.is_empty() { None } else { from.get(usize::from(n) % from.len()) }
}

fn edit_of(tree: &Tree, kind: u8, b: u16, c: u16) -> Option<Edit> {
    let paths: Vec<&Path> = tree.iter().map(|named| named.path).collect();
    let of = |file_type: FileType, n: u16| {
        let all: Vec<&&Path> = paths.iter().filter(|path| type_at(tree, path) == Some(file_type)).collect();
        pick(&all, n).map(|path| path.to_path_buf())
    };
    let dirs = |n: u16| of(FileType::Dir, n);
    let names = names();
    let fresh = |n: u16| {
        use std::os::unix::ffi::OsStringExt as _;
        // Unusual names are rare, so that most trees can be written as a layer.
        let name = pick(if n.is_multiple_of(8) { &names[..] } else { &names[..5] }, n / 8)?.clone();
        Some(dirs(n / 64)?.join(std::ffi::OsString::from_vec(name)))
    };
    let existing = |n: u16| pick(&paths, n).map(|path| path.to_path_buf());
    let content = |n: u16| FileContent { seed: n as u8, length: [0, 1, 5, 700, 4096, 70_000][usize::from(n) % 6] };
    let mode = |n: u16| [0o644, 0o755, 0o600, 0o4755, 0o2750, 0o1777, 0o000, 0o444][usize::from(n) % 8];
    let owner = |n: u16| [0, 1, 1000, 65_534, 3_000_000_000][usize::from(n) % 5];
    Some(match kind {
        0..=29 => Edit::Write(fresh(b)?, content(c)),
        30..=39 => Edit::Write(of(FileType::File, b)?, content(c)),
        40..=47 => Edit::Append(of(FileType::File, b)?, content(c)),
        48..=55 => Edit::Truncate(of(FileType::File, b)?, [0, 3, 700, 100_000][usize::from(c) % 4]),
        56..=59 => Edit::Open(of(FileType::File, b)?),
        60..=63 => Edit::Rewrite(of(FileType::File, b)?),
        64..=87 => Edit::MakeDir(fresh(b)?),
        88..=95 => Edit::Symlink(fresh(b)?, [&b"a"[..], b"../b", b"/lib", b"\xff"][usize::from(c) % 4].to_vec()),
        96..=103 => {
            let types = [FileType::Fifo, FileType::Char, FileType::Block, FileType::Socket];
            let device = Device { major: 1 + u32::from(c) % 500, minor: u32::from(c) * 3 };
            Edit::MakeNode(fresh(b)?, types[usize::from(c) % 4], device)
        }
        104..=115 => Edit::Link { from: existing(b)?, to: fresh(c)? },
        116..=133 => Edit::Remove(existing(b)?),
        134..=147 => Edit::Rename { from: existing(b)?, to: fresh(c)? },
        148..=157 => Edit::Rename { from: existing(b)?, to: existing(c)? },
        158..=163 => Edit::Exchange(dirs(b)?, dirs(c)?),
        164..=167 => Edit::Exchange(existing(b)?, existing(c)?),
        168..=175 => Edit::Chmod(existing(b)?, mode(c)),
        176..=183 => Edit::Chown(existing(b)?, owner(c), owner(c / 5), mode(c / 25)),
        184..=189 => Edit::Touch(existing(b)?),
        190..=195 => Edit::SetXattr(existing(b)?, xattr_name(c), vec![c as u8; usize::from(c) % 300]),
        196..=198 => {
            let path = existing(b)?;
            let name = tree.get(&path)?.inode.meta.xattrs.keys().next()?.clone();
            Edit::RemoveXattr(path, name)
        }
        _ => Edit::SetXattr(existing(b)?, ACL.to_vec(), access_list([0, 3, 6, 9, 12].map(|shift| (c >> shift) & 7))),
    })
}

fn xattr_name(n: u16) -> Vec<u8> {
    [&b"user.a"[..], b"user.b b", b"trusted.c"][usize::from(n) % 3].to_vec()
}
