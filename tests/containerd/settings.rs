//! The settings that strata prints: containerd unpacks for strata by strata's differ, and for its own snapshotters as
//! before. And what `doctor` says of other settings.

use std::path::Path;

use strata::Snapshotter;
use strata::mount;

use super::{Bench, Containerd, SETTINGS, Version, everyday};

/// Imports the archive by a client that names `snapshotter`, or none.
fn import(containerd: &Containerd, archive: &Path, options: &[&str]) -> Result<String, String> {
    let mut ctr = containerd.ctr(&["images", "import"]);
    // Without it, a client takes containerd's default.
    ctr.env_remove("CONTAINERD_SNAPSHOTTER").args(options).arg(archive);
    super::text(&ctr.output().expect("run ctr"))
}

fn listed(containerd: &Containerd, snapshotter: &str) -> usize {
    containerd.ok(&["snapshots", "--snapshotter", snapshotter, "ls"]).lines().skip(1).count()
}

#[test]
fn everything_that_worked_before_still_works() {
    for version in [Version::installed(), Version::unpacked(), Version::newest()].iter().flatten() {
        let Some(bench) = Bench::new(SETTINGS[0]) else { continue };
        let daemon = bench.daemon();
        let containerd = Containerd::start(&bench, version);
        let archive = bench.path("small.tar");
        everyday::small_image().write(&archive);
        let ways: &[&[&str]] = if version.name == "1.7" { &[&[], &["--local=false"]] } else { &[&[]] };
        for way in ways {
            import(&containerd, &archive, way).unwrap_or_else(|failed| panic!("{} {way:?}: {failed}", version.name));
            assert_eq!((listed(&containerd, "overlayfs"), listed(&containerd, "strata")), (3, 0), "{}", version.name);
            let to_strata = [way, &["--snapshotter", "strata"][..]].concat();
            import(&containerd, &archive, &to_strata).unwrap_or_else(|failed| panic!("{}: {failed}", version.name));
            assert_eq!((listed(&containerd, "overlayfs"), listed(&containerd, "strata")), (3, 3), "{}", version.name);
            containerd.ok(&["images", "rm", "--sync", everyday::small_image().name]);
            assert_eq!((listed(&containerd, "overlayfs"), listed(&containerd, "strata")), (0, 0), "{}", version.name);
        }
        let applied = |word: &str| {
            let log = daemon.log();
            log.lines().filter(|line| line.contains("call=\"Apply\"") && line.contains(word)).count()
        };
        let expected = if version.name == "the distribution's" { 0 } else { 3 * ways.len() };
        assert_eq!(applied("done"), expected, "{}: {}", version.name, daemon.log());
        assert_eq!(applied("ERROR"), 0, "what is left to others is no error: {}", daemon.log());
    }
}

/// Runs doctor on a containerd of which the file of settings was changed since it was started.
#[test]
fn a_mistake_is_found_with_its_mend() {
    let Some(version) = Version::unpacked() else { return };
    let Some(bench) = Bench::new(SETTINGS[0]) else { return };
    let _daemon = bench.daemon();
    let containerd = Containerd::start(&bench, &version);
    let file = bench.path("containerd.toml");
    let right = std::fs::read_to_string(&file).expect("settings");
    let doctor = || {
        let output = bench.strata(&["doctor", "--containerd"]).arg(&containerd.socket).output().expect("run");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let said = doctor();
    assert!(said.0 && said.1.contains("serves strata and overlayfs"), "{}", said.1);
    for (from, to, told) in [
        ("snapshotter = \"overlayfs\"", "snapshotter = \"native\"", "no entry for overlayfs"),
        ("\"strata-diff\", \"walking\"", "\"walking\"", "does not begin with strata-diff"),
        ("differ = \"strata-diff\"", "differ = \"walking\"", "set strata-diff"),
    ] {
        assert!(right.contains(from), "{right}");
        std::fs::write(&file, right.replace(from, to)).expect("write");
        let said = doctor();
        assert!(!said.0 && said.1.contains(told), "{told}: {}", said.1);
    }
}

/// How to unmount is said by the command line to its users, and to nobody else.
#[test]
fn a_mounted_snapshot_is_refused_in_words_for_everybody() {
    for setting in SETTINGS {
        let Some(bench) = Bench::new(setting) else { continue };
        let _daemon = bench.daemon();
        let client = bench.client();
        let mounts = client.prepare("default/1/work", "", &[].into()).expect("prepare");
        let target = bench.path("mounted");
        std::fs::create_dir(&target).expect("mkdir");
        mount::attach(&mounts, &target).expect("mount");
        for refused in [client.commit("default/2/name", "default/1/work", &[].into()), client.remove("default/1/work")]
        {
            let told = refused.expect_err("it is mounted").chain();
            assert!(told.contains("it is mounted on") && !told.contains("strata umount"), "{told}");
        }
        mount::unmount(&target).expect("unmount");
    }
}
