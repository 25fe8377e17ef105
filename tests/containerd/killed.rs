//! The daemon is killed in the middle of unpacks and commits, and started again: nothing that was acknowledged is lost,
//! containerd succeeds when it tries again, and nothing stays behind.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use strata::Snapshotter;
use strata::snapshotter::{Kind, Labels};

use super::image::{Image, Layer, shell};
use super::{Bench, Containerd, PATIENCE, SETTINGS, Version, everyday, support};

const NONE: &Labels = &BTreeMap::new();

/// How often the daemon is killed on each strategy.
const KILLS: u64 = 5;

/// Layers that take a while: some hundred files each, over those of the one before.
fn large_image() -> Image {
    let layer = |number: usize| {
        let files = (0..200).map(|file| (format!("tmp/{number}/{file}"), vec![number as u8; 4000]));
        let begun = Layer::new().dir(&format!("tmp/{number}"), 0o755, (0, 0));
        files.fold(begun, |layer, (path, bytes)| layer.file(&path, &bytes)).finish()
    };
    let layers = [shell()].into_iter().chain((1..7).map(layer)).collect();
    Image { name: "test.local/large:1", layers }
}

fn import(containerd: &Containerd, archive: &str) -> Child {
    let mut ctr = containerd.ctr(&["images", "import", archive]);
    ctr.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run ctr")
}

/// Imports until it succeeds: containerd takes a moment to connect again.
fn import_at_last(containerd: &Containerd, archive: &str) {
    let began = Instant::now();
    loop {
        let output = import(containerd, archive).wait_with_output().expect("wait");
        match super::text(&output) {
            Ok(_) => return,
            Err(failed) => assert!(began.elapsed() < PATIENCE, "it does not recover: {failed}"),
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Kills the daemon `after` a moment of an import.
fn kill_in_an_import(bench: &Bench, containerd: &Containerd, archive: &str, after: Duration) {
    let daemon = bench.daemon();
    let importing = import(containerd, archive);
    thread::sleep(after);
    drop(daemon);
    // It may have been through already.
    importing.wait_with_output().expect("wait");
}

/// containerd writes into the snapshots.
#[test]
fn in_the_middle_of_unpacks() {
    Version::installed().into_iter().for_each(|version| unpacks(&version));
}

/// The daemon itself does.
#[test]
fn in_the_middle_of_its_own_unpacks() {
    Version::unpacked().into_iter().for_each(|version| unpacks(&version));
}

fn unpacks(version: &Version) {
    for setting in SETTINGS {
        let Some(bench) = Bench::new(setting) else { continue };
        let archive = bench.path("large.tar");
        let large = large_image();
        large.write(&archive);
        let archive = archive.to_str().expect("a path");
        let containerd = Containerd::start(&bench, version);
        for kill in 0..KILLS {
            kill_in_an_import(&bench, &containerd, archive, Duration::from_millis(40 + 60 * kill));
            let daemon = bench.daemon();
            import_at_last(&containerd, archive);
            let script = "test -e /tmp/6/199 && test -e /tmp/1/0 && exit 7";
            let ran = everyday::run(&containerd, large.name, "after", script);
            assert_eq!(ran.0, Some(7), "{}, kill {kill}: {}", setting.0, ran.1);
            // It may say that it cannot verify what containerd wrote itself.
            assert_eq!(everyday::check(&bench, &["--deep"])["damaged"], 0, "{}, kill {kill}", setting.0);
            containerd.ok(&["images", "rm", "--sync", large.name]);
            assert_eq!(containerd.snapshots(), Vec::<String>::new(), "{}, kill {kill}", setting.0);
            assert_eq!(super::names(&bench.client()), Vec::<String>::new(), "{}, kill {kill}", setting.0);
            bench.wait_for_space(0);
            sound(&bench);
            drop(daemon);
        }
    }
}

/// Nothing is damaged, and nothing left over.
fn sound(bench: &Bench) {
    bench.client().cleanup().expect("cleanup");
    let checked = everyday::check(bench, &[]);
    assert_eq!(checked["findings"], serde_json::json!([]), "{checked}");
}

/// It is not the daemon that goes, but who called it.
#[test]
fn clients_in_the_middle_of_unpacks() {
    let Some(version) = Version::unpacked() else { return };
    for setting in SETTINGS {
        let Some(bench) = Bench::new(setting) else { continue };
        let archive = bench.path("large.tar");
        let large = large_image();
        large.write(&archive);
        let archive = archive.to_str().expect("a path");
        let daemon = bench.daemon();
        let containerd = Containerd::start(&bench, &version);
        for kill in 0..KILLS {
            let mut importing = import(&containerd, archive);
            thread::sleep(Duration::from_millis(40 + 60 * kill));
            importing.kill().expect("kill");
            importing.wait().expect("wait");
        }
        import_at_last(&containerd, archive);
        let ran = everyday::run(&containerd, large.name, "after", "test -e /tmp/6/199 && exit 7");
        assert_eq!(ran.0, Some(7), "{}: {}", setting.0, ran.1);
        assert_eq!(everyday::check(&bench, &["--deep"])["verified"], 7, "{}: every layer", setting.0);
        // A killed client leaves the lease by which containerd keeps the client's work.
        let leases = containerd.ok(&["leases", "ls", "-q"]);
        leases.lines().for_each(|lease| drop(containerd.ok(&["leases", "rm", lease])));
        containerd.ok(&["images", "rm", "--sync", large.name]);
        assert_eq!(super::names(&bench.client()), Vec::<String>::new(), "{}", setting.0);
        bench.wait_for_space(0);
        sound(&bench);
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[test]
fn in_the_middle_of_commits() {
    for setting in SETTINGS {
        let Some(bench) = Bench::new(setting) else { continue };
        let acknowledged = AtomicUsize::new(0);
        for kill in 0..KILLS {
            let daemon = bench.daemon();
            let client = bench.client();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let commit = |number: usize| {
                        let key = format!("key {number}");
                        client.prepare(&key, &parent(number), NONE)?;
                        client.commit(&number.to_string(), &key, NONE)
                    };
                    while commit(acknowledged.load(Ordering::Relaxed)).is_ok() {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                });
                wait_for_another(&acknowledged);
                thread::sleep(Duration::from_millis(40 * kill));
                drop(daemon);
            });
            let (_daemon, client) = (bench.daemon(), bench.client());
            let count = acknowledged.load(Ordering::Relaxed);
            for number in 0..count {
                let info = client.stat(&number.to_string()).expect("it was acknowledged");
                assert_eq!((info.kind, info.parent), (Kind::Committed, parent(number)), "{}", setting.0);
            }
            // The call that nobody answered was made or not; either way the next one goes on.
            if client.stat(&count.to_string()).is_ok() {
                acknowledged.fetch_add(1, Ordering::Relaxed);
            } else if client.stat(&format!("key {count}")).is_ok() {
                client.remove(&format!("key {count}")).expect("remove");
            }
            bench.wait_for_space(acknowledged.load(Ordering::Relaxed));
            sound(&bench);
        }
        let count = acknowledged.load(Ordering::Relaxed);
        support::say(&format!("{}: {count} commits acknowledged, {KILLS} kills", setting.0));
    }
}

/// Waits until a call was acknowledged: how long the first one takes, a machine knows best.
fn wait_for_another(acknowledged: &AtomicUsize) {
    let (before, began) = (acknowledged.load(Ordering::Relaxed), Instant::now());
    while acknowledged.load(Ordering::Relaxed) == before {
        assert!(began.elapsed() < PATIENCE, "nothing is under way");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Chains stay short: ten layers, and then from the start.
fn parent(number: usize) -> String {
    if number.is_multiple_of(10) { String::new() } else { (number - 1).to_string() }
}
