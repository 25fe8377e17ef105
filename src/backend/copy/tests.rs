use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

use super::*;
use crate::ErrorKind;
use crate::mount::Mounted;
use crate::mount::scratch::{FsType, Scratch};
use crate::testing;
use crate::tree::copy::Stamp;
use crate::tree::memory::Tree;
use crate::tree::walk::walk;

struct Bench {
    scratch: Scratch,
    backend: Copy,
}

impl Bench {
    fn new(fs_type: FsType) -> Option<Self> {
        let scratch = testing::scratch(fs_type)?;
        let backend = Copy::new(scratch.path(), CloneMode::Auto).unwrap();
        Some(Self { scratch, backend })
    }

    fn path(&self, id: u64) -> PathBuf {
        self.scratch.path().join(format!("s/{id}/fs"))
    }

    fn tree(&self, id: u64) -> Tree {
        Tree::read(&Dir::open(self.path(id)).unwrap()).unwrap()
    }

    /// Creates snapshot 1 with a directory, a file and a hard link.
    fn base(&self) {
        self.backend.create(Id(1), &[]).unwrap();
        let fs = self.path(1);
        fs::create_dir(fs.join("d")).unwrap();
        fs::write(fs.join("d/f"), "one").unwrap();
        fs::hard_link(fs.join("d/f"), fs.join("g")).unwrap();
        fs::set_permissions(&fs, fs::Permissions::from_mode(0o751)).unwrap();
        chown(&fs, Some(3), Some(4)).unwrap();
        self.backend.seal(Id(1), Id(1)).unwrap();
    }
}

#[test]
fn what_is_half_removed_is_listed() {
    let Some(Bench { scratch: _scratch, backend }) = Bench::new(FsType::Tmpfs).inspect(Bench::base) else { return };
    assert!(!backend.remove_until(Id(1), &|| true).unwrap());
    assert_eq!(backend.inventory().unwrap(), [Id(1)]);
    assert!(backend.remove_until(Id(1), &|| false).unwrap());
    assert_eq!(backend.inventory().unwrap(), []);
}

#[test]
fn a_snapshot_starts_as_its_parent_and_leaves_it_alone() {
    for fs_type in FsType::ALL {
        let Some(bench) = Bench::new(fs_type) else { continue };
        bench.base();
        let base = bench.tree(1);
        bench.backend.create(Id(2), &[Id(1)]).unwrap();
        assert!(bench.tree(2).differences(&base).is_empty());
        fs::write(bench.path(2).join("g"), "two").unwrap();
        fs::remove_dir(bench.path(2).join("d")).unwrap_err();
        bench.backend.seal(Id(2), Id(2)).unwrap();
        bench.backend.create(Id(3), &[Id(2), Id(1)]).unwrap();
        assert_eq!(fs::read_to_string(bench.path(3).join("d/f")).unwrap(), "two");
        assert!(bench.tree(1).differences(&base).is_empty());
        assert_eq!(bench.backend.inventory().unwrap(), [1, 2, 3].map(Id));
        bench.backend.remove(Id(1)).unwrap();
        bench.backend.remove(Id(1)).unwrap();
        assert_eq!(bench.tree(3), bench.tree(2));
        assert_eq!(bench.backend.inventory().unwrap(), [2, 3].map(Id));
    }
}

#[test]
fn a_base_is_empty_and_described_by_nobody() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    bench.backend.create(Id(1), &[]).unwrap();
    assert_eq!(bench.tree(1), Tree::default());
    assert_eq!(bench.backend.usage(Id(1), &[]).unwrap().inodes, 1);
    let error = bench.backend.create(Id(1), &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn mounts_show_the_first_of_the_stack() {
    let Some(bench) = Bench::new(FsType::Tmpfs) else { return };
    bench.base();
    bench.backend.create(Id(2), &[Id(1)]).unwrap();
    let point = bench.scratch.path().join("point");
    fs::create_dir(&point).unwrap();
    let mount = |access| Mounted::new(&bench.backend.mounts(&[Id(2), Id(1)], access).unwrap(), &point).unwrap();
    let mounted = mount(Access::ReadWrite);
    fs::write(point.join("new"), "").unwrap();
    mounted.unmount().unwrap();
    assert!(bench.path(2).join("new").exists());
    let mounted = mount(Access::ReadOnly);
    assert!(point.join("new").exists());
    assert_eq!(fs::write(point.join("g"), "").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    mounted.unmount().unwrap();
}

#[test]
fn what_failed_half_way_is_listed_and_removed() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    bench.base();
    assert_eq!(bench.backend.create(Id(2), &[Id(9)]).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(bench.backend.inventory().unwrap(), [1, 2].map(Id));
    assert_eq!(bench.backend.create(Id(2), &[Id(1)]).unwrap_err().kind(), ErrorKind::AlreadyExists);
    bench.backend.remove(Id(2)).unwrap();
    assert_eq!(bench.backend.inventory().unwrap(), [Id(1)]);
    bench.backend.create(Id(2), &[Id(1)]).unwrap();
}

#[test]
fn a_full_disk_is_said_so_and_can_be_cleared() {
    let Some(scratch) = testing::gate("tmpfs", Scratch::new(FsType::Tmpfs, 4 << 20)) else { return };
    let backend = Copy::new(scratch.path(), CloneMode::Auto).unwrap();
    backend.create(Id(1), &[]).unwrap();
    fs::write(scratch.path().join("s/1/fs/f"), vec![1; 3 << 20]).unwrap();
    assert_eq!(backend.create(Id(2), &[Id(1)]).unwrap_err().kind(), ErrorKind::ResourceExhausted);
    backend.remove(Id(2)).unwrap();
    assert_eq!(backend.inventory().unwrap(), [Id(1)]);
}

#[test]
fn reflinks_are_refused_where_there_are_none() {
    for fs_type in FsType::ALL {
        let Some(scratch) = testing::scratch(fs_type) else { continue };
        let opened = Copy::new(scratch.path(), CloneMode::Reflink);
        if matches!(fs_type, FsType::Xfs | FsType::Btrfs) {
            opened.unwrap();
        } else {
            assert_eq!(opened.unwrap_err().kind(), ErrorKind::Unsupported);
        }
    }
}

#[test]
fn the_manifest_is_the_copy_as_it_was_made() {
    for fs_type in FsType::ALL {
        let Some(bench) = Bench::new(fs_type) else { continue };
        bench.base();
        bench.backend.create(Id(2), &[Id(1)]).unwrap();
        let dir = bench.scratch.path().join("s/2");
        let manifest = Manifest::decode(&fs::read(dir.join(MANIFEST)).unwrap()).unwrap();
        assert_eq!((manifest.parent, manifest.boot), (Id(1), boot_id().unwrap()));
        let mut found = Vec::new();
        walk(&Dir::open(bench.path(2)).unwrap(), |entry| {
            found.push((entry.path.to_path_buf(), Stamp::from(&entry.stat)));
            Ok(())
        })
        .unwrap();
        let names: Vec<&Path> = found.iter().map(|(path, _)| path.as_path()).collect();
        assert_eq!(names, ["", "d", "d/f", "g"].map(Path::new));
        let mut recorded: Vec<_> = manifest
            .dirs
            .iter()
            .flat_map(|dir| dir.entries.iter().map(|entry| (dir.path.join(&entry.name), entry.stamp)))
            .collect();
        recorded.push((PathBuf::new(), manifest.dirs[0].stamp));
        recorded.sort();
        assert_eq!(recorded, found);
        // Every change from now on gives a ctime that is not older than the manifest.
        fs::write(bench.path(2).join("late"), "").unwrap();
        let late = Dir::open(bench.path(2)).unwrap().stat("late").unwrap();
        assert!(late.ctime >= manifest.complete);
        assert!(!bench.scratch.path().join("s/1/manifest").exists());
    }
}

#[test]
fn only_the_own_manifest_of_this_boot_tells_what_changed() {
    let Some(bench) = Bench::new(FsType::Ext4) else { return };
    bench.base();
    for id in 2..4 {
        bench.backend.create(Id(id), &[Id(1)]).unwrap();
    }
    let candidates = |id, parent| bench.backend.candidates(Id(id), Id(parent)).unwrap();
    let path = bench.scratch.path().join("s/2/manifest");
    let bytes = fs::read(&path).unwrap();
    let manifest = Manifest::decode(&bytes).unwrap();
    assert_eq!(bench.backend.manifest(Id(2), Id(1)).unwrap(), manifest);
    assert!(matches!(candidates(2, 1), Candidates::Hint(_)));
    assert!(matches!(candidates(2, 3), Candidates::All), "of another parent");
    assert!(matches!(candidates(1, 1), Candidates::All), "of a base");
    let rebooted = Manifest { boot: manifest.boot.map(|byte| !byte), ..manifest };
    for (what, bytes) in [("another boot", rebooted.encode()), ("half of one", bytes[..bytes.len() / 2].to_vec())] {
        fs::write(&path, bytes).unwrap();
        assert!(matches!(candidates(2, 1), Candidates::All), "{what}");
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(candidates(2, 1), Candidates::All), "none");
}

#[test]
fn an_answer_is_kept_and_what_is_sealed_is_looked_at_anew() {
    let Some(bench) = Bench::new(FsType::Tmpfs) else { return };
    bench.backend.create(Id(1), &[]).unwrap();
    let usage = || bench.backend.usage(Id(1), &[]).unwrap();
    assert_eq!(usage().inodes, 1);
    fs::write(bench.path(1).join("f"), "one").unwrap();
    assert_eq!(usage().inodes, 1, "within a minute");
    let survey = bench.backend.survey(Id(1), &[]).unwrap();
    assert_eq!(survey.usage.inodes, 2);
    assert_eq!(usage(), survey.usage, "what is known to be old is not kept");
    assert!(survey.inodes.unwrap().sync(&Dir::open(bench.path(1)).unwrap()).unwrap());
}
