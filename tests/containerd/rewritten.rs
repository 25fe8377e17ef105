//! Clients that spell the mounts of strata's snapshots in their own way, as BuildKit does: strata's differ applies and
//! makes the layers all the same, and containerd's own differ never gets at them.

use std::collections::BTreeSet;
use std::path::Path;

use strata::Snapshotter;
use strata::conformance::GC_ROOT;
use strata::containerd::{Client, Plugin};
use strata::id::{ChainId, Digest};
use strata::mount::{self, Mount};
use strata::snapshotter::Labels;
use strata::tree::memory::Tree;
use strata::tree::{Dir, text};
use tonic::Code;

use super::image::{Image, Layer};
use super::wire::{DIFF, Wire, field, fields};
use super::{Bench, Containerd, PATIENCE, SETTINGS, Version, everyday};

const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// A way to spell options.
type Rewrite = fn(&Mount) -> Vec<String>;

/// Options of `mount`, without those that begin with one of `dropped`.
fn without(mount: &Mount, dropped: &[&str]) -> Vec<String> {
    let mut options = mount.options();
    options.retain(|option| !dropped.iter().any(|dropped| option.starts_with(dropped)));
    options
}

fn with(options: Vec<String>, more: &[&str]) -> Vec<String> {
    options.into_iter().chain(more.iter().map(|option| (*option).to_owned())).collect()
}

/// Ways in which clients rewrite the options of a writable mount.
const WRITABLE: [(&str, Rewrite); 5] = [
    ("as BuildKit does", |mount| with(without(mount, &["redirect_dir"]), &["redirect_dir=off"])),
    ("without what is not needed", |mount| without(mount, &["redirect_dir", "index", "userxattr", "rw"])),
    ("repeated and in another order", |mount| {
        let mut options = with(mount.options(), &["volatile", "xino=off"]);
        options.extend(options.clone());
        options.reverse();
        options
    }),
    ("with mappings of ids", |mount| {
        [vec!["uidmap=0:100000:65536".to_owned(), "gidmap=0:100000:65536".to_owned()], mount.options()].concat()
    }),
    ("as it is", Mount::options),
];

/// The mounts of a request in its field `number`.
fn said(number: u8, mounts: &[Mount], rewrite: Rewrite) -> Vec<u8> {
    let one = |mount: &Mount| {
        let options: Vec<u8> = rewrite(mount).iter().flat_map(|option| field(4, option)).collect();
        field(number, [fields([(1, mount.fstype()), (2, &mount.source())]), options].concat())
    };
    mounts.iter().flat_map(one).collect()
}

/// A client of containerd, and a connection to containerd's diff service.
struct User {
    client: Client,
    wire: Wire,
}

impl User {
    fn of(containerd: &Containerd) -> Self {
        let plugin = Plugin { name: "strata".to_owned(), namespace: "default".to_owned() };
        let client = Client::connect(&containerd.socket, plugin).expect("connect");
        Self { client, wire: Wire::connect(&containerd.socket) }
    }

    fn call(&self, method: &str, message: &[u8]) -> Result<Vec<u8>, Code> {
        let headers = [("containerd-namespace", "default")];
        self.wire.end(self.wire.begin(&format!("{DIFF}/{method}"), message, &headers))
    }

    fn apply(&self, layer: &[u8], mounts: &[Mount], rewrite: Rewrite) -> Result<Vec<u8>, Code> {
        let descriptor = fields([(1, PLAIN), (2, &Digest::of(layer).to_string())]);
        self.call("Apply", &[field(1, descriptor), said(2, mounts, rewrite)].concat())
    }
}

fn kept() -> Labels {
    [(GC_ROOT.to_owned(), "test".to_owned())].into()
}

/// A lower layer with what an upper one takes away, and with attributes of the root.
fn layers() -> Vec<Vec<u8>> {
    let lower = Layer::new().dir("./", 0o711, (5, 6)).dir("d", 0o755, (0, 0)).file("d/old", b"old").file("gone", b"x");
    let upper = Layer::new().dir("d", 0o750, (1, 2)).file("d/new", b"new").file(".wh.d", b"").file(".wh.gone", b"");
    vec![lower.finish(), upper.finish()]
}

/// Puts the image's blobs into containerd, unpacking nothing, and answers with what `strata import` makes of it.
fn put(bench: &Bench, containerd: &Containerd) -> String {
    let archive = bench.path("image.tar");
    Image { name: "test.local/rewritten:1", layers: layers() }.write(&archive);
    containerd.ok(&["images", "import", "--no-unpack", archive.to_str().expect("a path")]);
    everyday::ok(bench.strata(&["import", "--name", "judge"]).arg(&archive));
    let listed: serde_json::Value =
        serde_json::from_str(&everyday::ok(&mut bench.strata(&["images", "--json"]))).expect("JSON");
    everyday::ok(&mut bench.strata(&["tree", "--digest", listed[0]["top"].as_str().expect("a name")])).trim().to_owned()
}

/// The tree that `key` shows.
fn tree(mounts: &[Mount]) -> String {
    let tree = Tree::read(&Dir::from_fd(mount::detached(mounts).expect("mount"), "look")).expect("read");
    text::digest(&tree).to_string()
}

/// Unpacks the image as a client that spells mounts by `rewrite`, under names of its own.
fn unpack(user: &User, label: &str, rewrite: Rewrite) -> String {
    let (mut parent, mut chain): (String, Option<ChainId>) = (String::new(), None);
    for layer in layers() {
        let diff_id = Digest::of(&layer);
        chain = Some(chain.map_or(ChainId::base(diff_id), |chain| chain.push(diff_id)));
        let mounts = user.client.prepare("extract-1", &parent, &kept()).expect("prepare");
        let applied = user.apply(&layer, &mounts, rewrite);
        let answer = applied.unwrap_or_else(|code| panic!("{label}: {code:?}"));
        assert!(String::from_utf8_lossy(&answer).contains(&diff_id.to_string()), "{label}: another DiffID");
        parent = chain.expect("a layer").to_string();
        user.client.commit(&parent, "extract-1", &kept()).unwrap_or_else(|error| panic!("{label}: {error}"));
    }
    parent
}

#[test]
fn mounts_are_known_by_what_they_show() {
    let versions = [Version::unpacked(), Version::newest()];
    for (version, setting) in versions.iter().flatten().flat_map(|version| SETTINGS.map(|setting| (version, setting))) {
        let Some(bench) = Bench::new(setting) else { continue };
        let _daemon = bench.daemon();
        let containerd = Containerd::start(&bench, version);
        let expected = put(&bench, &containerd);
        let user = User::of(&containerd);
        for (label, rewrite) in WRITABLE {
            let label = format!("{} on {}: {label}", version.name, setting.0.name);
            let top = unpack(&user, &label, rewrite);
            assert_eq!(tree(&user.client.prepare("look", &top, &kept()).expect("prepare")), expected, "{label}");
            user.client.remove("look").expect("remove");
            let checked = everyday::check(&bench, &["--deep"]);
            let unknown = checked["findings"].as_array().expect("a list").iter();
            let unknown: Vec<_> = unknown.filter(|finding| finding["problem"] != "waiting").collect();
            assert!(unknown.is_empty(), "{label}: {unknown:?}");
            remove_all(&user.client);
            containerd.ok(&["leases", "create", "--id", "any"]);
            containerd.ok(&["leases", "delete", "--sync", "any"]);
        }
    }
}

/// Removes what has no children until nothing is left.
fn remove_all(client: &Client) {
    loop {
        let names = super::names(client);
        if names.is_empty() {
            return;
        }
        let removed = names.iter().filter(|name| client.remove(name).is_ok()).count();
        assert!(removed > 0, "{names:?}");
    }
}

/// Read-only mounts, as clients spell them when they compare: BuildKit adds a second `ro`, and makes of a writable
/// overlay one of lower directories only.
const READ_ONLY: [(&str, Rewrite); 3] = [
    ("ro again", |mount| with(mount.options(), &["ro"])),
    ("rro", |mount| with(without(mount, &["ro", "rw"]), &["rro"])),
    ("no upper", |mount| {
        let options = mount.options();
        let value = |name: &str| options.iter().find_map(|option| option.strip_prefix(name)).map(str::to_owned);
        match (value("upperdir="), value("lowerdir=")) {
            (Some(upper), Some(lower)) => vec![format!("lowerdir={upper}:{lower}"), "redirect_dir=off".to_owned()],
            _ => with(options.clone(), &["ro", "ro"]),
        }
    }),
];

#[test]
fn layers_are_made_of_what_read_only_mounts_show() {
    let Some(version) = Version::unpacked() else { return };
    for setting in SETTINGS {
        let Some(bench) = Bench::new(setting) else { continue };
        let daemon = bench.daemon();
        let containerd = Containerd::start(&bench, &version);
        put(&bench, &containerd);
        let user = User::of(&containerd);
        let top = unpack(&user, "unpack", WRITABLE[0].1);
        let mounts = user.client.prepare("work", &top, &kept()).expect("prepare");
        let work = Dir::from_fd(mount::detached(&mounts).expect("mount"), "work");
        work.create_file("made").expect("create");
        drop(work);
        let lower = user.client.view("below", &top, &kept()).expect("view");
        let mut made = BTreeSet::new();
        for (label, rewrite) in READ_ONLY {
            for left in [said(1, &lower, rewrite), said(1, &lower, Mount::options)] {
                let request = [left, said(2, &mounts, rewrite)].concat();
                let answer = user.call("Diff", &request);
                made.insert(answer.unwrap_or_else(|code| panic!("{label} on {}: {code:?}", setting.0.name)));
            }
        }
        assert_eq!(made.len(), 1, "{}: the spelling changes the layer", setting.0.name);
        // The whole tree, against nothing.
        user.call("Diff", &said(2, &mounts, READ_ONLY[0].1)).expect("a layer of everything");
        let done = daemon.log().lines().filter(|line| line.contains("call=\"Diff\"") && line.contains("done")).count();
        assert_eq!(done, 7, "{}: {}", setting.0.name, daemon.log());
    }
}

/// Where strata cannot serve its own snapshots, containerd does not ask another differ.
#[test]
fn others_do_not_get_at_snapshots_of_strata() {
    let versions = [Version::unpacked(), Version::newest()];
    for (version, setting) in versions.iter().flatten().flat_map(|version| SETTINGS.map(|setting| (version, setting))) {
        let Some(bench) = Bench::new(setting) else { continue };
        let _daemon = bench.daemon();
        let containerd = Containerd::start(&bench, version);
        put(&bench, &containerd);
        let user = User::of(&containerd);
        let top = unpack(&user, "unpack", WRITABLE[0].1);
        let mounts = user.client.prepare("extract-2", &top, &kept()).expect("prepare");
        let before = tree(&mounts);
        let changed: [(&str, Rewrite); 3] = [
            ("another snapshot's directory", |mount| match mount {
                Mount::Other { source, .. } if source.starts_with('/') => vec!["ro".to_owned()],
                _ => mount.options().iter().map(|option| option.replacen("lowerdir=", "lowerdir=/etc:", 1)).collect(),
            }),
            ("read-only", |mount| with(without(mount, &["rw"]), &["ro"])),
            ("two uppers", |mount| match mount.options().iter().any(|option| option.starts_with("upperdir=")) {
                true => with(mount.options(), &["upperdir=/etc"]),
                false => vec!["ro".to_owned()],
            }),
        ];
        let layer = &layers()[0];
        for (label, rewrite) in changed {
            let label = format!("{} on {}: {label}", version.name, setting.0.name);
            assert_eq!(user.apply(layer, &mounts, rewrite).map(drop), Err(Code::FailedPrecondition), "{label}");
        }
        let unknown = fields([(1, "application/vnd.oci.image.layer.v1.tar+encrypted"), (2, "sha256:00")]);
        let request = [field(1, unknown), said(2, &mounts, Mount::options)].concat();
        assert_eq!(user.call("Apply", &request).map(drop), Err(Code::FailedPrecondition), "{}", setting.0.name);
        assert_eq!(tree(&mounts), before, "{} on {}: another differ wrote", version.name, setting.0.name);
    }
}

/// A layer that another differ wrote: by hand, as containerd's differ would.
fn write_by_hand(client: &Client, name: &str) -> strata::error::Result<()> {
    let mounts = client.prepare("extract-3", "", &kept())?;
    let dir = Dir::from_fd(mount::detached(&mounts)?, "extract-3");
    dir.create_file("foreign").map(drop)?;
    drop(dir);
    client.commit(name, "extract-3", &kept())
}

#[test]
fn what_another_differ_wrote_is_told_and_refused() {
    let Some(version) = Version::unpacked() else { return };
    for setting in SETTINGS {
        let Some(bench) = Bench::new(setting) else { continue };
        let daemon = bench.daemon();
        let containerd = Containerd::start(&bench, &version);
        let client = User::of(&containerd).client;
        let name = Digest::of(b"a layer").to_string();
        write_by_hand(&client, &name).expect("it is not refused");
        let labels = client.stat(&name).expect("stat").labels;
        assert!(labels.contains_key("strata/unverified"), "{}: {labels:?}", setting.0.name);
        let checked = everyday::check(&bench, &[]);
        let found = checked["findings"].as_array().expect("a list").iter().any(|finding| {
            finding["problem"] == "unverified" && finding["name"].as_str().is_some_and(|said| said.ends_with(&name))
        });
        assert!(found, "{}: {checked}", setting.0.name);
        let doctor = |more: &[&str]| {
            let output = bench.strata(&["doctor"]).args(more).output().expect("run");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let said = doctor(&["--containerd", containerd.socket.to_str().expect("a path")]);
        assert!(said.contains("1 layer") && said.contains("strata check"), "{said}");
        assert!(doctor(&[]).contains("1 unverified"), "{}", doctor(&[]));
        remove_all(&client);
        // Any other name promises nothing.
        write_by_hand(&client, "named by somebody").expect("it is not refused");
        assert!(!client.stat("named by somebody").expect("stat").labels.contains_key("strata/unverified"));
        remove_all(&client);
        assert_eq!(daemon.stop(), Some(0));
        let daemon = bench.daemon_with(&["--strict"]);
        // containerd waits for a moment before it connects again.
        let began = std::time::Instant::now();
        while client.prepare("extract-0", "", &kept()).is_err() {
            assert!(began.elapsed() < PATIENCE, "{}: containerd does not connect again", setting.0.name);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        client.remove("extract-0").expect("remove");
        let refused = write_by_hand(&client, &name).expect_err("it is refused");
        assert_eq!(refused.kind(), strata::error::ErrorKind::FailedPrecondition, "{}: {refused}", setting.0.name);
        assert!(refused.chain().contains("another differ"), "{}: {}", setting.0.name, refused.chain());
        client.remove("extract-3").expect("remove");
        put(&bench, &containerd);
        unpack(&User::of(&containerd), "strict", WRITABLE[0].1);
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// A link to the store's directory is another spelling of it.
#[test]
fn a_path_through_a_link_leads_to_the_snapshot() {
    let Some(version) = Version::unpacked() else { return };
    let Some(bench) = Bench::new(SETTINGS[0]) else { return };
    let daemon = bench.daemon();
    let containerd = Containerd::start(&bench, &version);
    put(&bench, &containerd);
    let user = User::of(&containerd);
    std::os::unix::fs::symlink(bench.path("store"), Path::new("/run/linked")).expect("symlink");
    let mounts = user.client.prepare("extract-4", "", &kept()).expect("prepare");
    let linked = mounts[0].source().replace(bench.path("store").to_str().expect("a path"), "/run/linked");
    let mounts = [Mount::Bind { source: linked.into(), access: mount::Access::ReadWrite }];
    user.apply(&layers()[0], &mounts, Mount::options).expect("apply");
    let applied = daemon.log().lines().filter(|line| line.contains("call=\"Apply\"") && line.contains("done")).count();
    assert_eq!(applied, 1, "{}", daemon.log());
}
