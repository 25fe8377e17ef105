//! Cases about the content of snapshots.

use super::{Case, Trial, Verdict, dir, file, removal};
use crate::conformance::case::{Fault, ensure};
use crate::conformance::ops::{Edit, perform};
use crate::conformance::trial::TIME;
use crate::snapshotter::{Info, Kind};
use crate::tree::memory::Tree;

/// Number of layers of the deepest case, as in containerd's suite.
const LAYERS: usize = 128;

/// All cases of this module.
pub(super) const CASES: [Case; 12] = [
    Case {
        name: "basic",
        source: "containerd suite: Basic",
        meaning: "a layer does not show what was written, or not what is below",
        run: basic,
    },
    Case {
        name: "layer-file-update",
        source: "containerd suite: LayerFileupdate; moby#21555",
        meaning: "a file that was rewritten with as many bytes shows the old ones",
        run: layer_file_update,
    },
    Case {
        name: "remove-directory-in-lower-layer",
        source: "containerd suite: RemoveDirectoryInLowerLayer; moby#25244",
        meaning: "a directory that was removed and made again shows what was in it",
        run: remove_directory_in_lower_layer,
    },
    Case {
        name: "chown",
        source: "containerd suite: Chown; moby#20240, #24913, #28391",
        meaning: "a change of owner is lost or spreads",
        run: chown,
    },
    Case {
        name: "directory-permission-on-commit",
        source: "containerd suite: DirectoryPermissionOnCommit; moby#27298",
        meaning: "directories change owners when they are committed",
        run: directory_permission_on_commit,
    },
    Case {
        name: "deleted-files",
        source: "containerd suite: DeletedFilesInChildSnapshot",
        meaning: "what was removed comes back in a child",
        run: deleted_files,
    },
    Case {
        name: "move-file-from-lower-layer",
        source: "containerd suite: MoveFileFromLowerLayer",
        meaning: "a hard link to a file of a lower layer is lost with its source",
        run: move_file_from_lower_layer,
    },
    Case {
        name: "view-readonly",
        source: "containerd suite: ViewReadonly",
        meaning: "a committed layer can be changed through a view",
        run: view_readonly,
    },
    Case {
        name: "root-permission",
        source: "containerd suite: RootPermission",
        meaning: "users cannot enter the root directory of a container",
        run: root_permission,
    },
    Case {
        name: "rename",
        source: "containerd suite: Rename; moby#25409",
        meaning: "what was moved is lost, or stays where it was",
        run: rename,
    },
    Case {
        name: "usage",
        source: "containerd core/snapshots/snapshotter.go: Usage",
        meaning: "space is counted twice or not at all",
        run: usage,
    },
    Case {
        name: "layers-128",
        source: "containerd suite: 128LayersMount",
        meaning: "images with many layers cannot be mounted",
        run: layers_128,
    },
];

fn basic(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("base", "", &[file("foo", 1, 900), dir("a"), dir("a/b"), dir("a/b/c")])?;
    let known = trial.stat("base")?;
    ensure(known.kind == Kind::Committed && known.labels == trial.labels(&[]), || format!("{known:?}"))?;
    let next = [file("bar", 2, 700), removal("foo"), file("foo", 3, 300), file("a/b/c/new", 5, 10), removal("a/b/c")];
    trial.layer("next", "base", &next)?;
    trial.view("seen", "next")?;
    trial.same_tree("seen")?;
    let mut walked: Vec<Info> = trial.walk(&[])?;
    walked.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let stats = ["base", "next", "seen"].map(|key| trial.stat(key));
    let stats = stats.into_iter().collect::<Verdict<Vec<_>>>()?;
    ensure(walked == stats, || format!("Walk and Stat differ: {walked:?}, {stats:?}"))?;
    ["seen", "next", "base"].into_iter().try_for_each(|key| trial.remove(key))
}

/// All times are equal, so only the bytes tell the files apart.
fn layer_file_update(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("0", "", &[dir("etc"), file("etc/hosts", 1, 64), file("root", 2, 4096)])?;
    for number in 1..6_u8 {
        let edits = [file("etc/hosts", number * 4 + 1, 64), file("root", number * 4 + 2, 4096)];
        trial.layer(&number.to_string(), &(number - 1).to_string(), &edits)?;
    }
    Ok(())
}

fn remove_directory_in_lower_layer(trial: &mut Trial<'_>) -> Verdict {
    let old = [dir("lib"), file("lib/hidden", 1, 100), dir("lib/more"), file("lib/more/hidden", 1, 100)];
    trial.layer("old", "", &old)?;
    trial.layer("new", "old", &[removal("lib"), dir("lib"), file("lib/not-hidden", 2, 100)])?;
    trial.layer("newer", "new", &[file("lib/hidden", 3, 50)])
}

fn own(path: &str, uid: u32, gid: u32, mode: u32) -> Edit {
    Edit::Chown(path.into(), uid, gid, mode)
}

fn chown(trial: &mut Trial<'_>) -> Verdict {
    let made = [dir("opt"), dir("opt/a"), dir("opt/a/b"), file("opt/a/b/file", 1, 10), own("opt", 1, 1, 0o700)];
    trial.layer("made", "", &made)?;
    let owned = [own("opt", 2, 2, 0o750), own("opt/a/b", 3, 3, 0o755), own("opt/a/b/file", 4, 5, 0o600)];
    trial.layer("owned", "made", &owned)?;
    trial.layer("again", "owned", &[own("opt/a/b/file", 0, 0, 0o4755)])
}

fn directory_permission_on_commit(trial: &mut Trial<'_>) -> Verdict {
    let made = ["d1", "d2", "d3", "d4"].map(dir);
    trial.layer("made", "", &made)?;
    let owned = [own("d1", 1, 1, 0o700), own("d2", 1, 1, 0o755), own("d3", 1, 1, 0o1777), removal("d4")];
    trial.layer("owned", "made", &owned)?;
    let back = [own("d1", 0, 0, 0o755), removal("d2"), dir("d2"), own("d2", 1, 1, 0o755), file("d3/x", 1, 1)];
    trial.layer("back", "owned", &back)
}

fn deleted_files(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("base", "", &[file("foo", 1, 5), file("bar", 1, 5), dir("a"), file("a/f", 1, 1)])?;
    trial.layer("less", "base", &[removal("foo"), removal("a/f")])?;
    trial.layer("other", "less", &[file("new", 2, 5), removal("bar")])
}

/// Checked without the model: it excludes hard links of lower layers, because strategies split them differently.
fn move_file_from_lower_layer(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("base", "", &[dir("dir1"), file("dir1/f1", 1, 50), dir("dir2"), file("dir2/f2", 2, 60)])?;
    trial.prepare("top", "base")?;
    let tree = trial.open("top")?;
    let link = Edit::Link { from: "dir1/f1".into(), to: "dir2/f2".into() };
    for edit in [removal("dir2/f2"), link, removal("dir1/f1"), removal("dir1")] {
        perform(&tree, &edit, TIME)?;
    }
    drop(tree);
    let moved = |trial: &Trial<'_>, key: &str| {
        let (tree, base) = (Tree::read(&trial.open(key)?)?, &trial.model.snapshots["base"].tree);
        let (found, wanted) = (tree.get("dir2/f2"), base.get("dir1/f1"));
        let content = |named: Option<crate::tree::memory::Named<'_>>| named.and_then(|named| named.inode.content);
        ensure(content(found) == content(wanted) && tree.get("dir1").is_none(), || format!("in {key}: {found:?}"))
    };
    moved(trial, "top")?;
    trial.on.commit(&trial.key("moved"), &trial.key("top"), &trial.labels)?;
    trial.on.view(&trial.key("seen"), &trial.key("moved"), &trial.labels)?;
    moved(trial, "seen")
}

fn view_readonly(trial: &mut Trial<'_>) -> Verdict {
    trial.layer("base", "", &[file("file", 1, 5)])?;
    trial.layer("next", "base", &[file("other", 2, 5)])?;
    for parent in ["", "base", "next"] {
        let key = format!("view of {parent}");
        trial.view(&key, parent)?;
        let tree = trial.open(&key)?;
        for edit in [file("file", 3, 9), dir("dir"), removal("file")] {
            let answer = perform(&tree, &edit, TIME);
            ensure(answer.is_err(), || format!("{edit} succeeded in {key}"))?;
        }
        drop(tree);
        trial.same_tree(&key)?;
    }
    Ok(())
}

fn root_permission(trial: &mut Trial<'_>) -> Verdict {
    trial.prepare("fresh", "")?;
    let mode = trial.open("fresh")?.stat("")?.mode & 0o7777;
    ensure(mode == 0o755, || format!("the root has the mode {mode:o}"))
}

fn rename(trial: &mut Trial<'_>) -> Verdict {
    let to = |from: &str, to: &str| Edit::Rename { from: from.into(), to: to.into() };
    let made = [dir("dir"), file("dir/f", 1, 5), file("a", 2, 6), file("b", 3, 7), dir("other"), dir("keep")];
    trial.layer("made", "", &made)?;
    trial.layer("files", "made", &[to("a", "b"), to("dir/f", "keep/f")])?;
    trial.layer("dirs", "files", &[to("keep", "moved"), to("moved", "dir/moved"), to("other", "keep")])
}

fn usage(trial: &mut Trial<'_>) -> Verdict {
    const BIG: u32 = 1 << 20;
    trial.layer("big", "", &[file("big", 1, BIG)])?;
    trial.layer("small", "big", &[file("small", 2, 10)])?;
    trial.view("view", "small")?;
    let usage = |key: &str| -> Verdict<_> { Ok(trial.on.usage(&trial.key(key))?) };
    let (big, small, view) = (usage("big")?, usage("small")?, usage("view")?);
    ensure(big.size_bytes >= u64::from(BIG) && big.inodes >= 2, || format!("a file of {BIG} bytes: {big:?}"))?;
    ensure(usage("small")? == small, || format!("what is committed changed its usage: {small:?}"))?;
    ensure(view.size_bytes == 0 && view.inodes == 0, || format!("a view: {view:?}"))
}

fn layers_128(trial: &mut Trial<'_>) -> Verdict {
    let mut parent = String::new();
    for number in 0..LAYERS {
        let (name, key) = (format!("layer{number}"), format!("{number} in work"));
        trial.prepare(&key, &parent)?;
        let seed = u8::try_from(number).map_err(|_| Fault::Broken("too many layers".to_owned()))?;
        trial.edit(&key, &[file("bottom", seed, 17), dir(&name), file(&format!("{name}/file"), seed, 5)])?;
        trial.commit(&name, &key)?;
        parent = name;
    }
    trial.prepare("over all", &parent)?;
    trial.same_tree("over all")?;
    trial.look(&parent)
}
