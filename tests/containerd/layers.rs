//! Layers by strata's rules for containerd's users: where containerd's own differ loses, resurrects or widens
//! something, depending on the snapshotter, the result is that of the image specification, and of `strata import`.

use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use strata::Snapshotter;
use strata::backends::BTRFS;
use strata::changeset::blob::{Decompress, Expansion};
use strata::conformance::GC_ROOT;
use strata::containerd::{Client, Plugin};
use strata::id::Digest;
use strata::mount::{self, Mount};
use strata::oci::media_type;
use strata::snapshotter::Kind;
use strata::tree::memory::Tree;
use strata::tree::{Dir, Timestamp, text};

use super::image::{Image, Layer};
use super::wire::{DIFF, Wire, field, fields};
use super::{Bench, Containerd, SETTINGS, Version, everyday};

const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// A second layer on a first, and the expected result: a path with its mode and owner, or a path that must be absent.
struct Rule {
    name: &'static str,
    lower: fn(Layer) -> Layer,
    upper: fn(Layer) -> Layer,
    expected: &'static [(&'static str, &'static str)],
}

const RULES: [Rule; 10] = [
    Rule {
        name: "test.local/whiteout-and-again:1",
        lower: |layer| layer.dir("d", 0o755, (0, 0)).file("d/old", b"old"),
        upper: |layer| layer.file(".wh.d", b"").dir("d", 0o750, (1, 2)).file("d/new", b"new"),
        expected: &[("d", "750 1:2"), ("d/new", "755 0:0"), ("d/old", "-")],
    },
    Rule {
        name: "test.local/again-and-whiteout:1",
        lower: |layer| layer.dir("d", 0o755, (0, 0)).file("d/old", b"old"),
        upper: |layer| layer.dir("d", 0o750, (1, 2)).file("d/new", b"new").file(".wh.d", b""),
        expected: &[("d", "750 1:2"), ("d/new", "755 0:0"), ("d/old", "-")],
    },
    Rule {
        name: "test.local/entry-and-whiteout:1",
        lower: |layer| layer.file("a", b"old"),
        upper: |layer| layer.file("a", b"new").file(".wh.a", b""),
        expected: &[("a", "755 0:0")],
    },
    Rule {
        name: "test.local/implied-parents:1",
        lower: |layer| layer.dir("t", 0o1777, (5, 6)).dir("priv", 0o700, (7, 8)),
        upper: |layer| layer.file("t/new", b"new").file("priv/k2", b"key"),
        expected: &[("t", "1777 5:6"), ("t/new", "755 0:0"), ("priv", "700 7:8"), ("priv/k2", "755 0:0")],
    },
    Rule {
        name: "test.local/opaque-alone:1",
        lower: |layer| layer.dir("d", 0o700, (3, 4)).file("d/old", b"old"),
        upper: |layer| layer.file("d/.wh..wh..opq", b""),
        expected: &[("d", "700 3:4"), ("d/old", "-")],
    },
    Rule {
        name: "test.local/link-to-a-lower-file:1",
        lower: |layer| layer.file("a", b"content"),
        upper: |layer| layer.link("b", "a"),
        expected: &[("a", "755 0:0"), ("b", "755 0:0")],
    },
    Rule {
        name: "test.local/linked-parent:1",
        lower: |layer| layer.dir("usr", 0o755, (0, 0)).dir("usr/lib", 0o755, (0, 0)).symlink("lib", "usr/lib"),
        upper: |layer| layer.file("lib/x", b"x"),
        expected: &[("lib", "777 0:0"), ("usr/lib/x", "755 0:0"), ("lib/x", "-")],
    },
    Rule {
        name: "test.local/whiteout:1",
        lower: |layer| layer.file("gone", b"x").file("stays", b"x"),
        upper: |layer| layer.file(".wh.gone", b""),
        expected: &[("gone", "-"), ("stays", "755 0:0")],
    },
    Rule {
        name: "test.local/root:1",
        lower: |layer| layer.dir("./", 0o711, (5, 6)).file("a", b"a"),
        upper: |layer| layer.file("b", b"b"),
        expected: &[("", "711 5:6"), ("b", "755 0:0")],
    },
    Rule {
        name: "test.local/parent-becomes-a-file:1",
        lower: |layer| layer.dir("d", 0o755, (0, 0)).file("d/old", b"old"),
        upper: |layer| layer.file("d", b"now a file"),
        expected: &[("d", "755 0:0"), ("d/old", "-")],
    },
];

fn described(tree: &Tree, path: &str) -> String {
    tree.get(path).map_or("-".to_owned(), |named| {
        let meta = &named.inode.meta;
        format!("{:o} {}:{}", meta.mode, meta.uid, meta.gid)
    })
}

/// The snapshot of the topmost layer of the only image, as the daemon calls it.
fn top_of(bench: &Bench) -> String {
    let (mut tops, mut parents) = (Vec::new(), Vec::new());
    bench
        .client()
        .walk(&[], &mut |info| {
            assert_eq!(info.kind, Kind::Committed);
            tops.push(info.name.clone());
            parents.push(info.parent.clone());
            Ok(())
        })
        .expect("walk");
    tops.retain(|name| !parents.contains(name));
    assert_eq!(tops.len(), 1, "{tops:?}");
    tops.remove(0)
}

/// The tree of an active snapshot on the only image: the case where containerd's overlayfs loses the root's attributes.
fn unpacked(bench: &Bench) -> Tree {
    let client = bench.client();
    let mounts = client.prepare("look", &top_of(bench), &[].into()).expect("prepare");
    let tree = Tree::read(&Dir::from_fd(mount::detached(&mounts).expect("mount"), "look")).expect("read");
    client.remove("look").expect("remove");
    tree
}

/// The name of the image that `strata import` makes of the same archive.
fn imported(bench: &Bench, archive: &Path) -> String {
    everyday::ok(bench.strata(&["import", "--name", "judge"]).arg(archive));
    let listed = everyday::ok(&mut bench.strata(&["images", "--json"]));
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let top = listed[0]["top"].as_str().expect("a name");
    everyday::ok(&mut bench.strata(&["tree", "--digest", top])).trim().to_owned()
}

#[test]
fn follow_the_specification() {
    let Some(version) = Version::unpacked() else { return };
    for setting in SETTINGS {
        let Some(bench) = Bench::new(setting) else { continue };
        let _daemon = bench.daemon();
        let containerd = Containerd::start(&bench, &version);
        let archive = bench.path("image.tar");
        for rule in &RULES {
            let what = format!("{} on {}", rule.name, setting.0);
            let layers = [rule.lower, rule.upper].map(|made| made(Layer::new()).finish()).into();
            Image { name: rule.name, layers }.write(&archive);
            containerd.ok(&["images", "import", archive.to_str().expect("a path")]);
            let tree = unpacked(&bench);
            for (path, expected) in rule.expected {
                assert_eq!(described(&tree, path), *expected, "{what}: {path}");
            }
            assert_eq!(text::digest(&tree).to_string(), imported(&bench, &archive), "{what}: strata import differs");
            containerd.ok(&["images", "rm", "--sync", rule.name]);
        }
    }
}

/// Where the layer of the snapshot `name` lies on disk.
fn on_disk(bench: &Bench, name: &str) -> std::path::PathBuf {
    let mounts = bench.client().view("look", name, &[].into()).expect("view");
    bench.client().remove("look").and_then(|()| bench.client().cleanup()).expect("remove");
    let top = mounts[0].options().into_iter().find_map(|option| {
        let lower = option.strip_prefix("lowerdir=")?;
        lower.split(':').next().map(str::to_owned)
    });
    top.unwrap_or_else(|| mounts[0].source()).into()
}

/// A deep check reads the layers that the differ applied, and compares them with the layers that containerd got.
#[test]
fn are_known_by_their_digests() {
    let Some(version) = Version::unpacked() else { return };
    for setting in SETTINGS {
        let Some(bench) = Bench::new(setting) else { continue };
        let daemon = bench.daemon();
        let containerd = Containerd::start(&bench, &version);
        let archive = bench.path("small.tar");
        everyday::small_image().write(&archive);
        containerd.ok(&["images", "import", archive.to_str().expect("a path")]);
        // Snapshots that containerd removed meanwhile may still wait to be freed, which is a finding, though no damage.
        bench.client().cleanup().expect("cleanup");
        let checked = everyday::check(&bench, &["--deep"]);
        assert_eq!((&checked["verified"], &checked["findings"]), (&json!(3), &json!([])), "{}: {checked}", setting.0);
        // Neither the size nor the time changes.
        let top = bench.client().stat(&top_of(&bench)).expect("stat");
        let file = on_disk(&bench, &top.name).join("etc/hello");
        let before = std::fs::metadata(&file).and_then(|stat| stat.modified()).expect("stat");
        if setting.0 == BTRFS {
            let subvolume = file.ancestors().nth(2).expect("its subvolume");
            let thaw = ["property", "set", "-f", subvolume.to_str().expect("a path"), "ro", "false"];
            assert!(Command::new("btrfs").args(thaw).status().expect("run btrfs").success());
        }
        std::fs::write(&file, b"bad  day\n").expect("write");
        std::fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(before)).expect("utimes");
        let output = bench.strata(&["check", "--deep", "--json"]).output().expect("run");
        assert_eq!(output.status.code(), Some(1), "{}", setting.0);
        let checked: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&checked["verified"], &checked["damaged"]), (&json!(2), &json!(1)), "{}: {checked}", setting.0);
        assert!(checked["findings"][0]["message"].as_str().is_some_and(|said| said.contains(&top.name)), "{checked}");
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// By the transfer service, which has the differ from `unpack_config`; the other tests let ctr do the work.
#[test]
fn are_unpacked_by_the_transfer_service() {
    let Some(version) = Version::unpacked() else { return };
    for setting in SETTINGS {
        let Some(bench) = Bench::new(setting) else { continue };
        let daemon = bench.daemon();
        let containerd = Containerd::start(&bench, &version);
        let archive = bench.path("image.tar");
        let rule = &RULES[0];
        let layers = [rule.lower, rule.upper].map(|made| made(Layer::new()).finish()).into();
        Image { name: rule.name, layers }.write(&archive);
        let archive_name = archive.to_str().expect("a path");
        containerd.ok(&["images", "import", "--local=false", "--snapshotter", "strata", archive_name]);
        let applied = daemon.log().lines().filter(|line| line.contains("Apply") && line.contains("done")).count();
        assert_eq!(applied, 2, "{}: {}", setting.0, daemon.log());
        let tree = unpacked(&bench);
        assert_eq!(text::digest(&tree).to_string(), imported(&bench, &archive), "{}", setting.0);
    }
}

/// containerd asks strata's differ first, whatever the snapshotter, and goes on to its own for mounts of others.
#[test]
fn of_other_snapshotters_are_left_to_containerd() {
    let Some(version) = Version::unpacked() else { return };
    let Some(bench) = Bench::new(SETTINGS[0]) else { return };
    let daemon = bench.daemon();
    let containerd = Containerd::start(&bench, &version);
    let archive = bench.path("small.tar");
    everyday::small_image().write(&archive);
    for other in ["native", "overlayfs"] {
        containerd.ok(&["images", "import", "--snapshotter", other, archive.to_str().expect("a path")]);
        let listed = containerd.ok(&["snapshots", "--snapshotter", other, "ls"]);
        assert_eq!(listed.lines().count(), 4, "a heading and three layers: {listed}");
    }
    let asked = daemon.log().lines().filter(|line| line.contains("Apply") && line.contains("unsupported")).count();
    assert_eq!(asked, 6, "{}", daemon.log());
    assert_eq!(super::names(&bench.client()), Vec::<String>::new());
    assert_eq!(daemon.stop(), Some(0));
}

/// Changes that containerd's own differ does not see: other bytes of the same length at the same time, and attributes.
fn change_unseen(client: &Client, key: &str) {
    let mounts = client.mounts(key).expect("mounts");
    let tree = Dir::from_fd(mount::detached(&mounts).expect("mount"), key);
    let etc = tree.open_dir("etc").expect("etc");
    let before = etc.stat("hello").expect("stat");
    std::fs::write(format!("/proc/self/fd/{}/hello", etc.as_fd().as_raw_fd()), "GOOD DAY\n").expect("write");
    etc.set_mtime("hello", before.mtime).expect("utimes");
    tree.open_dir("bin").expect("bin").set_xattr("sh", b"user.note", b"value").expect("setfattr");
    // A write leaves no other trace, on any strategy.
    etc.set_mtime("", Timestamp { seconds: 1_700_000_001, nanos: 5 }).expect("utimes");
}

/// The digest that `ctr snapshots diff` prints, and the decompressed layer.
fn diffed(containerd: &Containerd, key: &str, media_type: &str) -> (Digest, Vec<u8>) {
    let mut ctr = containerd.ctr(&["snapshots", "diff", "--keep", "--media-type", media_type, key]);
    let output = ctr.output().expect("run ctr");
    crate::text(&output).unwrap_or_else(|failed| panic!("{media_type}: {failed}"));
    let compression = media_type::compression_of(media_type).expect("a layer");
    let mut plain = Vec::new();
    Decompress::new(&*output.stdout, compression, Expansion::default(), media_type)
        .and_then(|mut reader| reader.read_to_end(&mut plain).map_err(|error| panic!("{media_type}: {error}")))
        .expect("decompress");
    (Digest::of(&output.stdout), plain)
}

#[test]
fn are_made_alike_on_every_strategy() {
    let Some(version) = Version::unpacked() else { return };
    let mut made: Vec<Vec<u8>> = Vec::new();
    for setting in SETTINGS {
        let Some(bench) = Bench::new(setting) else { continue };
        let _daemon = bench.daemon();
        let containerd = Containerd::start(&bench, &version);
        let archive = bench.path("small.tar");
        everyday::small_image().write(&archive);
        containerd.ok(&["images", "import", archive.to_str().expect("a path")]);
        let top = everyday::top(&containerd);
        let plugin = Plugin { name: "strata".to_owned(), namespace: "default".to_owned() };
        let client = Client::connect(&containerd.socket, plugin).expect("connect");
        client.prepare("work", &top, &[(GC_ROOT.to_owned(), "test".to_owned())].into()).expect("prepare");
        change_unseen(&client, "work");
        let plain = diffed(&containerd, "work", PLAIN).1;
        for media_type in [format!("{PLAIN}+gzip"), format!("{PLAIN}+zstd"), format!("{PLAIN}+gzip")] {
            // The last one is in the content store already.
            let (digest, same) = diffed(&containerd, "work", &media_type);
            assert!(same == plain, "{} {media_type}: another layer", setting.0);
            let listed = containerd.ok(&["content", "ls"]);
            let line = listed.lines().find(|line| line.starts_with(&digest.to_string())).expect("it is kept");
            assert!(line.contains(&format!("containerd.io/uncompressed={}", Digest::of(&plain))), "{line}");
        }
        assert_eq!(paths(&plain), ["bin/", "bin/sh", "etc/", "etc/hello"], "{}", setting.0);
        made.push(plain);
    }
    assert!(made.iter().all(|layer| *layer == made[0]), "the strategies make different layers");
}

/// Mounts, as a request says them in its field `number`.
fn said(number: u8, mounts: &[Mount]) -> Vec<u8> {
    let one = |mount: &Mount| {
        let options: Vec<u8> = mount.options().iter().flat_map(|option| field(4, option)).collect();
        field(number, [fields([(1, mount.fstype()), (2, &mount.source())]), options].concat())
    };
    mounts.iter().flat_map(one).collect()
}

/// containerd keeps what a call's lease holds, and does not tell strata's differ of the lease.
#[test]
fn are_held_until_somebody_refers_to_them() {
    let Some(version) = Version::unpacked() else { return };
    let Some(bench) = Bench::new(SETTINGS[0]) else { return };
    let _daemon = bench.daemon();
    let containerd = Containerd::start(&bench, &version);
    let plugin = Plugin { name: "strata".to_owned(), namespace: "default".to_owned() };
    let client = Client::connect(&containerd.socket, plugin).expect("connect");
    let kept = [(GC_ROOT.to_owned(), "test".to_owned())].into();
    let [left, right] =
        [client.view("below", "", &kept), client.prepare("work", "", &kept)].map(|mounts| mounts.expect("mounts"));
    containerd.ok(&["leases", "create", "--id", "caller"]);
    let wire = Wire::connect(&containerd.socket);
    let request = [said(1, &left), said(2, &right)].concat();
    let diff = || {
        let headers = [("containerd-namespace", "default"), ("containerd-lease", "caller")];
        wire.end(wire.begin(&format!("{DIFF}/Diff"), &request, &headers)).expect("diff");
    };
    let collect = || {
        containerd.ok(&["leases", "create", "--id", "other"]);
        containerd.ok(&["leases", "delete", "--sync", "other"]);
    };
    let blobs = || containerd.ok(&["content", "ls", "-q"]);
    let own = || {
        let leases = containerd.ok(&["leases", "ls"]);
        leases.lines().filter(|line| line.contains("strata-diff-")).map(str::to_owned).collect::<Vec<_>>()
    };
    diff();
    let made = blobs();
    assert_eq!(made.lines().count(), 1, "{made}");
    collect();
    assert_eq!(blobs(), made);
    let leases = own();
    let expires = leases[0].split_once("containerd.io/gc.expire=").expect("it expires").1;
    let expires: jiff::Timestamp = expires.split([',', ' ']).next().and_then(|time| time.parse().ok()).expect(expires);
    let left = expires.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((60..=600).contains(&left), "an image that is removed later frees the blob: {leases:?}");
    // The same again, of which the blob is there.
    containerd.ok(&["content", "label", made.trim(), "containerd.io/gc.root=test"]);
    let forget = || {
        let names: Vec<String> =
            own().iter().map(|line| line.split_whitespace().next().expect("a name").into()).collect();
        names.iter().for_each(|name| drop(containerd.ok(&["leases", "delete", "--sync", name])));
    };
    forget();
    diff();
    containerd.ok(&["content", "label", made.trim(), "containerd.io/gc.root="]);
    collect();
    assert_eq!(blobs(), made);
    forget();
    assert_eq!(blobs(), "", "nothing else held it");
}

/// The paths of a layer, without that of the root.
fn paths(layer: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(layer);
    let entries = archive.entries().expect("an archive");
    let path = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let entry = entry.expect("an entry");
        String::from_utf8_lossy(&entry.path_bytes()).into_owned()
    };
    entries.map(path).filter(|path| path != "./").collect()
}
