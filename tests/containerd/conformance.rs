//! The cases of [`strata::conformance::suite`]: by our socket, behind containerd, and on containerd's own
//! snapshotters, so that the cases themselves are judged.

use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;

use strata::Snapshotter as _;
use strata::backends::{BTRFS, OVERLAY};
use strata::conformance::suite::{self, Case, Group, Subject};
use strata::conformance::{Deviation, Outcome};
use strata::containerd::{Client, Plugin};
use strata::mount::scratch::FsType;

use super::{Bench, Containerd, SETTINGS, Version, support};

/// Known deviations of containerd's own snapshotters: snapshotter, case, reason.
const DEVIATIONS: [(&str, Deviation); 2] = [
    (
        "native",
        Deviation {
            case: "lifecycle/commit-of-a-view",
            sign: "no such file or directory",
            why: "it looks for the view's directory first, which a view does not have",
        },
    ),
    (
        "native",
        Deviation {
            case: "content/new-file-keeps-its-directories",
            sign: "its time",
            why: "its copies lose the times of directories",
        },
    ),
];

/// Known deviations of containerd itself, with any snapshotter behind it.
const OF_CONTAINERD: [Deviation; 1] = [Deviation {
    case: "lifecycle/wrong-filter",
    sign: "failed with io",
    why: "its List answers Unknown: it forgets to translate the error",
}];

/// The cases that the subject of this number is held to: all, or with `STRATA_EVERY=N` every N-th, beginning at another
/// one for each, which is what an emulated processor does.
///
/// Layers are written and read by strata itself, whoever keeps the snapshots: they are tried where the stores are.
fn cases(number: usize) -> impl Iterator<Item = Case> {
    let every = std::env::var("STRATA_EVERY").ok().and_then(|text| text.parse().ok());
    let every = every.map_or(1, NonZeroUsize::get);
    let all = suite::cases(1, 0).into_iter().filter(|case| case.group != Group::Layers);
    all.skip(number % every).step_by(every)
}

fn run(number: usize, what: &str, client: &Client, expected: &[Deviation]) {
    let mut failed = Vec::new();
    let subject = Subject::new(client, "").expect("a subject").known(expected);
    for case in cases(number) {
        match case.run(&subject) {
            Outcome::Passed => {}
            // Not `skipped: `, by which CI finds what a machine lacks.
            Outcome::Skipped(why) => support::say(&format!("{what}: {} does not apply: {why}", case.name)),
            Outcome::Deviation(why) => support::say(&format!("{what}: {} deviates: {why}", case.name)),
            Outcome::Failed(how) => failed.push(format!("{} ({}): {how}", case.name, case.meaning)),
        }
    }
    assert!(failed.is_empty(), "{what}:\n{}", failed.join("\n"));
}

#[test]
fn by_our_socket() {
    for (number, setting) in SETTINGS.into_iter().enumerate() {
        let Some(bench) = Bench::new(setting) else { continue };
        let daemon = bench.daemon();
        run(number, setting.0.name, &bench.client(), &[]);
        assert_eq!(super::names(&bench.client()), Vec::<String>::new());
        assert_eq!(daemon.stop(), Some(0));
        assert!(!bench.socket().exists(), "the socket went with its daemon");
    }
}

/// The capabilities that `docs/strata.service` leaves suffice.
#[test]
fn with_what_the_unit_leaves() {
    let unit = include_str!("../../docs/strata.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("a bounding set");
    let kept: String = line.split(' ').map(|name| name.replace("CAP_", ",+").to_lowercase()).collect();
    let Some(bench) = Bench::new((OVERLAY, FsType::Ext4)) else { return };
    let mut command = Command::new("setpriv");
    command.arg(format!("--bounding-set=-all{kept}")).arg("--no-new-privs").arg(env!("CARGO_BIN_EXE_strata"));
    command.arg("--root").arg(bench.path("store")).args(["--backend", "overlay", "serve", "--socket"]);
    let _daemon = bench.start(command.arg(bench.socket()), &bench.socket());
    run(SETTINGS.len(), "with what the unit leaves", &bench.client(), &[]);
    bench.client().cleanup().expect("cleanup");
}

fn behind(containerd: &Path, name: &str) -> Client {
    let plugin = Plugin { name: name.to_owned(), namespace: "strata-test".to_owned() };
    Client::connect(containerd, plugin).expect("connect to containerd")
}

#[test]
fn behind_containerd_and_on_its_own_snapshotters() {
    let Some(version) = Version::installed() else { return };
    let Some(bench) = Bench::new((BTRFS, FsType::Btrfs)) else { return };
    let _daemon = bench.daemon();
    let containerd = Containerd::start(&bench, &version);
    for (number, name) in ["strata", "overlayfs", "native", "btrfs"].into_iter().enumerate() {
        let own = DEVIATIONS.iter().filter(|(who, _)| *who == name).map(|(_, deviation)| *deviation);
        let expected: Vec<_> = own.chain(OF_CONTAINERD).collect();
        run(number, &format!("{name} behind {}", version.name), &behind(&containerd.socket, name), &expected);
    }
}
