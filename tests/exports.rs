//! Exports of strata are read by other tools, and images that those tools write are read by strata.
//!
//! The tools are umoci, skopeo, buildah, podman and containerd, and bsdtar for single layers. Each unpacks an image
//! that strata exported, in every form and compression that the tool supports; the tree must be that of the store. Then
//! the tool writes the image again in every form, and another store imports it: the image must have the same ID and the
//! same tree. Tools that can change an image do so, and strata must import the changed tree.

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use strata::backends::{self, Config, OVERLAY};
use strata::changeset::blob::Compression;
use strata::door::{EmitOptions, emit};
use strata::id::Digest;
use strata::image::{Destination, ExportOptions, Imported, Options, Place, Source, export, import};
use strata::mount::scratch::{FsType, Scratch};
use strata::snapshotter::Snapshotter as _;
use strata::store::{Durability, Store};
use strata::tree::memory::Tree;
use strata::tree::{Dir, text};

const NAME: &str = "strata.test/app:1";

const ALL: [Compression; 3] = [Compression::Gzip, Compression::Zstd, Compression::None];

const FORMS: [&str; 3] = ["oci", "oci-archive", "docker-archive"];

/// Length of more than one block of a gzip blob.
const LARGE_BYTES: usize = (5 << 20) / 2;

/// A store with one image, and a directory for exports.
struct Bench {
    scratch: Scratch,
    store: Store,
    id: Digest,
    tree: Vec<String>,
}

impl Bench {
    fn new() -> Option<Self> {
        let scratch = support::scratch(FsType::Ext4)?;
        let store = support::gate("overlay", open(scratch.path().join("store")))?;
        let archive = scratch.path().join("image.tar");
        fs::write(&archive, image()).expect("write");
        let options = Options { name: Some(NAME.to_owned()), ..Options::default() };
        let source = Source { place: Place::Path(archive), reference: None };
        let imported = import(&store, &source, &options, &()).unwrap_or_else(|error| panic!("{}", error.chain()));
        let tree = lines(&store.open_tree(imported.top.as_deref().expect("layers")).expect("tree"));
        Some(Self { scratch, store, id: imported.id, tree })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn export(&self, form: &str, compression: Compression) -> PathBuf {
        let path = self.path(&format!("{form}-{}", compression.as_str()));
        let destination = Destination::parse(format!("{form}:{}", path.display()).as_ref()).expect("a destination");
        let options = ExportOptions { compression, ..ExportOptions::default() };
        let exported = export(&self.store, NAME, &destination, &options, &());
        let exported = exported.unwrap_or_else(|error| panic!("{destination}: {}", error.chain()));
        assert_eq!((exported.id, exported.layers), (self.id, 2), "{destination}");
        path
    }

    /// Checks that the tree unpacked by a tool is the store's.
    #[track_caller]
    fn check_tree(&self, what: &str, unpacked: &Path) {
        let theirs = lines(&Dir::open(unpacked).expect("what a judge unpacked"));
        let [ours, theirs] = [&self.tree, &theirs].map(|tree| tree.iter().collect::<BTreeSet<_>>());
        let (missing, more): (Vec<_>, Vec<_>) =
            (ours.difference(&theirs).collect(), theirs.difference(&ours).collect());
        assert!(missing.is_empty() && more.is_empty(), "{what}: ours {missing:#?}, theirs {more:#?}");
    }

    /// Imports an image that a tool wrote into a new store; returns the image and its tree.
    #[track_caller]
    fn import_anew(&self, what: &str, path: &Path, reference: Option<&str>) -> (Imported, Vec<String>) {
        let root = self.path("another-store");
        let store = open(root.clone()).expect("a store");
        let source = Source { place: Place::Path(path.to_owned()), reference: reference.map(str::to_owned) };
        let imported = import(&store, &source, &Options::default(), &());
        let imported = imported.unwrap_or_else(|error| panic!("{what}: {}", error.chain()));
        let tree = lines(&store.open_tree(imported.top.as_deref().expect("layers")).expect("tree"));
        drop(store);
        fs::remove_dir_all(root).expect("remove");
        (imported, tree)
    }

    /// Checks that the image a tool wrote is the image that it read.
    #[track_caller]
    fn check_import(&self, what: &str, path: &Path) {
        self.check_same_tree(what, path, Some(self.id));
    }

    /// Checks that the image a tool wrote has the tree of the image that it read.
    #[track_caller]
    fn check_same_tree(&self, what: &str, path: &Path, id: Option<Digest>) {
        let (imported, tree) = self.import_anew(what, path, None);
        assert_eq!((imported.id, imported.unpacked), (id.unwrap_or(imported.id), 2), "{what}");
        assert_eq!(tree, self.tree, "{what}");
    }

    /// Checks that an image changed by a tool has the tree that the tool shows.
    #[track_caller]
    fn check_changed(&self, what: &str, path: &Path, reference: Option<&str>, shown: &[String]) {
        let (imported, tree) = self.import_anew(what, path, reference);
        assert_eq!(imported.layers, 3, "{what}");
        assert_eq!(tree, shown, "{what}");
    }
}

fn open(root: PathBuf) -> strata::Result<Store> {
    let durability = Durability::None;
    backends::open(&Config { backend: Some(OVERLAY), durability, ..Config::new(root) })
}

/// Changes the tree `root` a little, and returns the whole tree.
fn change(root: &Path) -> Vec<String> {
    fs::write(root.join("etc/new"), "new").expect("write");
    fs::remove_file(root.join("etc/passwd")).expect("remove");
    fs::remove_dir_all(root.join("opaque")).expect("remove");
    for changed in ["etc/new", "etc"] {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_001);
        File::open(root.join(changed)).expect("open").set_modified(time).expect("set the time");
    }
    lines(&Dir::open(root).expect("open"))
}

/// Returns the tree without the root, which a layer need not describe.
fn lines(dir: &Dir) -> Vec<String> {
    let tree = Tree::read(dir).expect("read the tree");
    text::print(&tree).lines().skip(1).map(str::to_owned).collect()
}

/// Appends an entry of a kind, with mode and content or with a target.
fn add(layer: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, path: &str, mode: u32, content: &[u8], target: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(u64::from(mode & 0o4000 == 0) * 1000);
    header.set_mtime(1_700_000_000 + u64::from(mode));
    header.set_size(content.len() as u64);
    if target.is_empty() {
        layer.append_data(&mut header, path, content).expect("append");
    } else {
        layer.append_link(&mut header, path, target).expect("append");
    }
}

/// Returns a docker archive of two layers that change each other's files, with a file of several blocks.
fn image() -> Vec<u8> {
    use tar::EntryType as Type;
    let mut layers = [(); 2].map(|()| tar::Builder::new(Vec::new()));
    let [one, two] = &mut layers;
    let large: Vec<u8> = (0..LARGE_BYTES as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for dir in ["etc", "usr", "usr/bin", "opaque"] {
        add(one, Type::Directory, dir, 0o755, b"", "");
    }
    add(one, Type::Regular, "etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\n", "");
    add(one, Type::Regular, "etc/gone", 0o600, b"gone", "");
    add(one, Type::Regular, "usr/bin/large", 0o755, &large, "");
    add(one, Type::Regular, "usr/bin/setuid", 0o4755, b"#!/bin/sh\n", "");
    add(one, Type::Link, "usr/bin/hard", 0o4755, b"", "usr/bin/setuid");
    add(one, Type::Symlink, "bin", 0o777, b"", "usr/bin");
    add(one, Type::Regular, "opaque/hidden", 0o644, b"hidden", "");
    add(one, Type::Regular, &format!("usr/{}", "long".repeat(40)), 0o644, b"a name for two headers", "");
    add(two, Type::Directory, "etc", 0o750, b"", "");
    add(two, Type::Regular, "etc/.wh.gone", 0o644, b"", "");
    add(two, Type::Regular, "etc/passwd", 0o640, b"changed", "");
    add(two, Type::Directory, "opaque", 0o711, b"", "");
    add(two, Type::Regular, "opaque/.wh..wh..opq", 0o644, b"", "");
    add(two, Type::Regular, "opaque/new", 0o644, b"new", "");
    let layers = layers.map(|layer| layer.into_inner().expect("a layer"));
    let diff_ids = layers.each_ref().map(|layer| Digest::of(layer));
    let config = json!({
        "os": "linux", "architecture": "amd64", "created": "2024-01-01T00:00:00Z", "x-unknown": {"kept": [1, 2]},
        "config": {"Env": ["PATH=/usr/bin"], "Healthcheck": {"Test": ["NONE"]}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "one"}, {"created_by": "ENV", "empty_layer": true}, {"created_by": "two"}],
    });
    let list = json!([{"Config": "config.json", "Layers": ["0.tar", "1.tar"], "RepoTags": [NAME]}]);
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in [("config.json", config), ("manifest.json", list)] {
        add(&mut archive, Type::Regular, path, 0o644, bytes.to_string().as_bytes(), "");
    }
    for (at, layer) in layers.iter().enumerate() {
        add(&mut archive, Type::Regular, &format!("{at}.tar"), 0o644, layer, "");
    }
    archive.into_inner().expect("an archive")
}

/// Returns true if `program` is available; else the test must return.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    support::require(program, found.map(drop).map_err(|error| error.to_string()))
}

/// Runs `program`, which must succeed, and returns its standard output.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Returns the name of the image at `path` for tools of containers/image.
fn source_of(form: &str, path: &Path) -> String {
    let name = if form == "docker-archive" { String::new() } else { format!(":{NAME}") };
    format!("{form}:{}{name}", shown(path))
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn umoci() {
    let Some(bench) = Bench::new().filter(|_| has("umoci")) else { return };
    for compression in [Compression::Gzip, Compression::None] {
        let layout = bench.export("oci", compression);
        let image = format!("{}:{NAME}", shown(&layout));
        let unpacked = bench.path(&format!("umoci-{}", compression.as_str()));
        run("umoci", &["raw", "unpack", "--image", &image, shown(&unpacked)]);
        bench.check_tree(compression.as_str(), &unpacked);
        run("umoci", &["tag", "--image", &image, "again"]);
        run("umoci", &["gc", "--layout", shown(&layout)]);
        bench.check_import("umoci", &layout);
        let bundle = bench.path(&format!("umoci-bundle-{}", compression.as_str()));
        run("umoci", &["unpack", "--image", &image, shown(&bundle)]);
        let tree = change(&bundle.join("rootfs"));
        run("umoci", &["repack", "--image", &format!("{}:changed", shown(&layout)), shown(&bundle)]);
        bench.check_changed("umoci", &layout, Some("changed"), &tree);
    }
}

#[test]
fn skopeo() {
    let Some(bench) = Bench::new().filter(|_| has("skopeo")) else { return };
    for form in FORMS {
        for compression in ALL {
            let source = source_of(form, &bench.export(form, compression));
            let id = run("skopeo", &["--insecure-policy", "inspect", "--config", "--raw", &source]);
            assert_eq!(Digest::of(id.as_bytes()), bench.id, "{source}");
            let again = bench.path(&format!("skopeo-{form}-{}", compression.as_str()));
            for target in FORMS {
                // Docker's manifests do not support zstd.
                if (target, compression) == ("docker-archive", Compression::Zstd) && form != target {
                    continue;
                }
                let again = again.with_extension(target);
                let copied = format!("{target}:{}:{NAME}", shown(&again));
                run("skopeo", &["--insecure-policy", "copy", "--quiet", &source, &copied]);
                // Converting from docker's form to OCI's, skopeo writes another config.
                let is_other = form == "docker-archive" && target != form;
                bench.check_same_tree(&format!("{source} to {copied}"), &again, (!is_other).then_some(bench.id));
            }
        }
    }
}

#[test]
fn bsdtar() {
    let Some(bench) = Bench::new().filter(|_| has("bsdtar")) else { return };
    let top = bench.store.image(NAME).expect("image").top.expect("layers");
    let base = bench.store.stat(&top).expect("stat").parent;
    let mut lists = BTreeSet::new();
    for compression in ALL {
        let file = bench.path(compression.as_str());
        let options = EmitOptions { compression, ..EmitOptions::default() };
        emit(&bench.store, &base, &options, &mut File::create(&file).expect("create")).expect("write the layer");
        lists.insert(run("bsdtar", &["-tvf", shown(&file)]));
    }
    assert!(lists.len() == 1 && lists.iter().all(|list| list.contains("usr/bin/large")), "{lists:?}");
}

/// Returns options that keep a tool of containers/storage away from the machine's own storage.
fn aside(bench: &Bench) -> [String; 6] {
    let dir = |name: &str| shown(&bench.path(name)).to_owned();
    ["--root", "--runroot", "--storage-driver"]
        .map(str::to_owned)
        .into_iter()
        .zip([dir("containers"), dir("run"), "overlay".to_owned()])
        .flat_map(|(option, value)| [option, value])
        .collect::<Vec<_>>()
        .try_into()
        .expect("six")
}

#[test]
fn buildah() {
    let Some(bench) = Bench::new().filter(|_| has("buildah")) else { return };
    let aside = aside(&bench);
    let buildah = |arguments: &[&str]| run("buildah", &[&aside.each_ref().map(String::as_str)[..], arguments].concat());
    for form in FORMS {
        for compression in ALL {
            let source = source_of(form, &bench.export(form, compression));
            let container = buildah(&["from", "--quiet", &source]);
            let mounted = buildah(&["mount", &container]);
            bench.check_tree(&source, Path::new(&mounted));
            let again = bench.path(&format!("buildah-{form}-{}", compression.as_str()));
            buildah(&["push", "--quiet", &bench.id.hex(), &format!("{form}:{}:{NAME}", shown(&again))]);
            bench.check_import(&format!("buildah, {source}"), &again);
            if compression == Compression::Gzip {
                let tree = change(Path::new(&mounted));
                buildah(&["commit", "--quiet", &container, "changed"]);
                let changed = bench.path(&format!("buildah-changed-{form}"));
                buildah(&["push", "--quiet", "changed", &format!("{form}:{}:{NAME}", shown(&changed))]);
                bench.check_changed(&format!("buildah, {form}"), &changed, None, &tree);
            }
            buildah(&["umount", &container]);
            buildah(&["rm", "--all"]);
            buildah(&["rmi", "--all", "--force"]);
        }
    }
}

#[test]
fn podman() {
    let Some(bench) = Bench::new().filter(|_| has("podman")) else { return };
    let aside = aside(&bench);
    let tmp = shown(&bench.path("libpod")).to_owned();
    let aside = [&aside.each_ref().map(String::as_str)[..], &["--tmpdir", &tmp, "--events-backend", "none"]].concat();
    let podman = |arguments: &[&str]| run("podman", &[&aside[..], arguments].concat());
    for form in FORMS {
        for compression in ALL {
            let path = bench.export(form, compression);
            match form {
                "oci" => podman(&["pull", "--quiet", &source_of(form, &path)]),
                _ => podman(&["load", "--quiet", "--input", shown(&path)]),
            };
            let what = format!("podman, {form}, {compression:?}");
            let mounted = podman(&["image", "mount", &bench.id.hex()]);
            bench.check_tree(&what, Path::new(&mounted));
            let again = bench.path(&format!("podman-{form}-{}", compression.as_str()));
            let format = if form == "oci" { "oci-dir" } else { form };
            podman(&["save", "--quiet", "--format", format, "--output", shown(&again), &bench.id.hex()]);
            bench.check_import(&what, &again);
            podman(&["image", "umount", "--all"]);
            podman(&["rmi", "--all", "--force"]);
        }
    }
}

/// A containerd for this test; dropping the value stops it.
struct Containerd {
    process: Child,
    socket: PathBuf,
}

impl Containerd {
    fn start(bench: &Bench) -> Self {
        let dir = bench.path("containerd");
        fs::create_dir(&dir).expect("mkdir");
        let socket = dir.join("sock");
        let config = dir.join("config.toml");
        let text = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{0}/sock\"\n",
            shown(&dir)
        );
        fs::write(&config, text).expect("write");
        let log = File::create(dir.join("log")).expect("a log");
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&config).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().expect("containerd");
        let containerd = Self { process, socket };
        let began = Instant::now();
        while !containerd.answers() {
            let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(60), "containerd does not start: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        containerd
    }

    fn answers(&self) -> bool {
        let status = Command::new("ctr").args(["-a", shown(&self.socket), "version"]).output();
        status.is_ok_and(|output| output.status.success())
    }

    #[track_caller]
    fn ctr(&self, arguments: &[&str]) -> String {
        run("ctr", &[&["-a", shown(&self.socket)], arguments].concat())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn containerd() {
    let Some(bench) = Bench::new().filter(|_| has("containerd") && has("ctr")) else { return };
    let containerd = Containerd::start(&bench);
    for form in ["oci-archive", "docker-archive"] {
        for compression in ALL {
            let what = format!("{form}-{}", compression.as_str());
            let path = bench.export(form, compression);
            containerd.ctr(&["images", "import", "--digests", shown(&path)]);
            let names = containerd.ctr(&["images", "ls", "-q"]);
            assert!(names.lines().any(|name| name == NAME), "{what}: {names}");
            let mounted = bench.path(&format!("mounted-{what}"));
            fs::create_dir(&mounted).expect("mkdir");
            containerd.ctr(&["images", "mount", NAME, shown(&mounted)]);
            bench.check_tree(&what, &mounted);
            let again = bench.path(&format!("containerd-{what}.tar"));
            containerd.ctr(&["images", "export", shown(&again), NAME]);
            bench.check_import(&format!("containerd, {what}"), &again);
            containerd.ctr(&["images", "unmount", "--rm", shown(&mounted)]);
            for name in containerd.ctr(&["images", "ls", "-q"]).lines() {
                containerd.ctr(&["images", "rm", "--sync", name]);
            }
        }
    }
}
