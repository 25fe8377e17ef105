//! Containers in user namespaces behind a real containerd: no copy of the image is made, and their layers have the ids
//! that the container sees.

use std::collections::BTreeMap;
use std::io::Read as _;

use super::everyday::ok;
use super::image::{Image, Layer, shell};
use super::{Bench, Containerd, SETTINGS, Version, text};

const MAP: &str = "0:300000:65536";
const OPTIONS: [&str; 5] = ["--uidmap", MAP, "--gidmap", MAP, "--remap-labels"];

/// Reads and writes of the container; `test -O` is true for its own files.
const SCRIPT: &str =
    "read line < /etc/hello && echo $line && test -O /etc/hello && test -O / && test ! -O /etc/users &&
    echo changed > /etc/users && echo written > /tmp/written && read line < /etc/again && echo $line";

fn image() -> Image {
    let files = Layer::new().file("etc/hello", b"hello\n").link("etc/again", "etc/hello");
    let files = files.owned("etc/users", b"users\n", 0o666, (1000, 1000)).finish();
    Image { name: "test.local/owners:1", layers: vec![shell(), files] }
}

/// The entries of a layer that are files, with the owner of each.
fn owners(layer: &[u8]) -> BTreeMap<String, (u64, u64)> {
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(layer).read_to_end(&mut plain).expect("gunzip");
    let mut archive = tar::Archive::new(&plain[..]);
    let entries = archive.entries().expect("entries").map(|entry| entry.expect("an entry"));
    let files = entries.filter(|entry| entry.header().entry_type().is_file());
    let owner = |entry: tar::Entry<'_, &[u8]>| {
        let path = entry.path().expect("a path").display().to_string();
        (path, (entry.header().uid().expect("a uid"), entry.header().gid().expect("a gid")))
    };
    files.map(owner).collect()
}

#[test]
fn an_image_is_not_copied_for_a_user_namespace() {
    let Some(version) = Version::newest() else { return };
    for setting in SETTINGS {
        let Some(bench) = Bench::new(setting) else { continue };
        let _daemon = bench.daemon();
        let containerd = Containerd::start(&bench, &version);
        image().write(&bench.path("image.tar"));
        containerd.ok(&["images", "import", bench.path("image.tar").to_str().expect("a path")]);
        let said = ok(&mut containerd.run(&OPTIONS, image().name, "mapped", SCRIPT));
        assert_eq!(said, "hello\nhello\n", "{setting:?}");
        let key = containerd.container("mapped");
        assert_eq!(containerd.snapshots().len(), 3, "two layers and one container: {:?}", containerd.snapshots());
        let layer = containerd.ctr(&["snapshots", "diff", &key]).output().expect("run ctr");
        text(&layer).unwrap_or_else(|failed| panic!("diff: {failed}"));
        let expected = [("etc/users", (1000, 1000)), ("tmp/written", (0, 0))];
        let expected: BTreeMap<_, _> = expected.map(|(path, owner)| (path.to_owned(), owner)).into();
        assert_eq!(owners(&layer.stdout), expected, "{setting:?}");
        containerd.ok(&["containers", "rm", &key]);
    }
}
