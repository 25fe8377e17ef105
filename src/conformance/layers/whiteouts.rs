//! Rules 1 to 17: deletions.

use super::{NEXT_LAYER, Rule, applied, refused, squashed};
use crate::error::ErrorKind::InvalidArgument;

const WHITEOUTS: &str = "OCI image specification, layer.md, \"Whiteouts\"";
const OPAQUE: &str = "OCI image specification, layer.md, \"Opaque Whiteout\"";

pub(super) const RULES: &[Rule] = &[
    Rule {
        number: 1,
        name: "a whiteout removes what is below it, whatever that is",
        source: WHITEOUTS,
        failure: "a deleted file is back in the image, or a link's target goes with the link",
        examples: &[
            applied("a file", &["f a \"x\"", "f b \"y\""], &["f .wh.a \"\""], &["f b \"y\""]),
            applied(
                "a directory with all in it",
                &["d d", "d d/e", "f d/e/a \"x\"", "f b \"y\""],
                &["f .wh.d \"\""],
                &["f b \"y\""],
            ),
            applied(
                "a symbolic link, not what it points to",
                &["d d", "f d/a \"x\"", "l l -> d"],
                &["f .wh.l \"\""],
                &["d d", "f d/a \"x\""],
            ),
            applied("a device and a fifo", &["c null dev=1:3", "p p"], &["f .wh.null \"\"", "f .wh.p \"\""], &[]),
        ],
    },
    Rule {
        number: 2,
        name: "a whiteout of nothing is no error",
        source: "all readers tolerate it; squashing tools write such",
        failure: "an image of another builder cannot be unpacked",
        examples: &[applied("a name that is not there", &["f a \"x\""], &["f .wh.b \"\""], &["f a \"x\""])],
    },
    Rule {
        number: 3,
        name: "a whiteout below a directory that is missing makes none",
        source: WHITEOUTS,
        failure: "directories appear that no layer has",
        examples: &[
            applied("below nothing", &["f a \"x\""], &["f b/c/.wh.d \"\""], &["f a \"x\""]),
            applied("below a file", &["f a \"x\""], &["f a/.wh.b \"\""], &["f a \"x\""]),
        ],
    },
    Rule {
        number: 4,
        name: "a whiteout does not reach an entry of its own layer that came before it",
        source: "OCI image specification, layer.md, \"Whiteouts\"; containerd issue 6991",
        failure: "the pull fails, or the new file is missing",
        examples: &[
            applied("a file", &["f a \"old\" 600 1:2"], &["f a \"new\"", "f .wh.a \"\""], &["f a \"new\""]),
            applied(
                "a directory: what it had below is gone",
                &["d d 700 1:2", "f d/old \"x\""],
                &["d d 750", "f d/new \"y\"", "f .wh.d \"\""],
                &["d d 750", "f d/new \"y\""],
            ),
        ],
    },
    Rule {
        number: 5,
        name: "a whiteout and then an entry: nothing of what was below is left",
        source: "OCI image specification, layer.md, \"Whiteouts\"; image-spec issue 1215",
        failure: "deleted files of a directory that was made again are back",
        examples: &[
            applied(
                "a directory",
                &["d d 700 1:2 user.a=b", "f d/old \"x\"", "d d/e", "f d/e/old \"x\""],
                &["f .wh.d \"\"", "d d 750", "f d/new \"y\""],
                &["d d 750", "f d/new \"y\""],
            ),
            applied("a file", &["f a \"old\" 600 1:2"], &["f .wh.a \"\"", "f a \"new\""], &["f a \"new\""]),
            applied(
                "a file in the place of a directory",
                &["d a", "f a/b \"old\""],
                &["f .wh.a \"\"", "f a \"new\""],
                &["f a \"new\""],
            ),
        ],
    },
    Rule {
        number: 6,
        name: "a whiteout of a directory and whiteouts of what is in it are the same",
        source: "layers of tools that record every step of rm -r",
        failure: "an image of another builder cannot be unpacked",
        examples: &[
            applied(
                "the directory first",
                &["d d", "f d/a \"x\"", "f b \"y\""],
                &["f .wh.d \"\"", "f d/.wh.a \"\""],
                &["f b \"y\""],
            ),
            applied(
                "the directory last",
                &["d d", "f d/a \"x\"", "f b \"y\""],
                &["f d/.wh.a \"\"", "f .wh.d \"\""],
                &["f b \"y\""],
            ),
        ],
    },
    Rule {
        number: 7,
        name: "a whiteout of a directory, and entries below it without one of its own",
        source: "OCI image specification, layer.md, \"Whiteouts\"; umoci's layer tests",
        failure: "the directory keeps its old content, mode or owner",
        examples: &[
            applied(
                "the whiteout first",
                &["d d 700 1:2 @9 user.a=b", "f d/old \"x\""],
                &["f .wh.d \"\"", "f d/new \"y\""],
                &["d d", "f d/new \"y\""],
            ),
            applied(
                "the whiteout last",
                &["d d 700 1:2 @9 user.a=b", "f d/old \"x\""],
                &["f d/new \"y\"", "f .wh.d \"\""],
                &["d d", "f d/new \"y\""],
            ),
        ],
    },
    Rule {
        number: 8,
        name: "an opaque directory holds nothing of the layers below, wherever in its layer the mark stands",
        source: OPAQUE,
        failure: "deleted files are back, or new ones are missing",
        examples: &[
            applied(
                "the mark first",
                &["d d 700 @3", "f d/old \"x\""],
                &["f d/.wh..wh..opq \"\"", "f d/new \"y\""],
                &["d d 700 @3", "f d/new \"y\""],
            ),
            applied(
                "the mark last",
                &["d d 700 @3", "f d/old \"x\""],
                &["d d 711", "f d/new \"y\"", "f d/.wh..wh..opq \"\""],
                &["d d 711", "f d/new \"y\""],
            ),
            applied("in a directory that is not there", &[], &["f d/.wh..wh..opq \"\""], &["d d"]),
            applied(
                "nested",
                &["d d", "d d/e", "f d/e/old \"x\"", "f d/old \"x\""],
                &["f d/.wh..wh..opq \"\"", "f d/e/.wh..wh..opq \"\"", "f d/e/new \"y\""],
                &["d d", "d d/e", "f d/e/new \"y\""],
            ),
            applied("where a file is below", &["f d \"x\""], &["f d/.wh..wh..opq \"\""], &["d d"]),
            applied(
                "where a link to a directory is below",
                &["d e 700 @3", "f e/old \"x\"", "l d -> e"],
                &["f d/.wh..wh..opq \"\""],
                &["l d -> e", "d e 700 @3"],
            ),
            applied(
                "at the root",
                &["d . 711", "f a \"x\"", "d d 700", "f d/b \"x\""],
                &["f d/c \"y\"", "f .wh..wh..opq \"\""],
                &["d . 711", "d d", "f d/c \"y\""],
            ),
        ],
    },
    Rule {
        number: 9,
        name: "a whiteout inside an opaque directory adds nothing",
        source: "umoci 0.5.0: overlayfs lists such a whiteout as a file that cannot be opened",
        failure: "ls shows a file that is not there",
        examples: &[applied(
            "after the mark and before it",
            &["d d", "f d/a \"x\"", "f d/b \"x\""],
            &["f d/.wh.a \"\"", "f d/.wh..wh..opq \"\"", "f d/.wh.b \"\""],
            &["d d"],
        )],
    },
    Rule {
        number: 10,
        name: "saying it again changes nothing",
        source: "containerd advisory GHSA-rp3h-jf77-q9p4: each mark walked the directory anew",
        failure: "a small layer keeps the machine busy for hours",
        examples: &[applied(
            "marks and whiteouts of one directory",
            &["d d", "f d/old \"x\""],
            &[
                "f d/new \"y\"",
                "f d/.wh..wh..opq \"\"",
                "f d/.wh..wh..opq \"\"",
                "f .wh.d \"\"",
                "f .wh.d \"\"",
                "f d/.wh..wh..opq \"\"",
            ],
            &["d d", "f d/new \"y\""],
        )],
    },
    Rule {
        number: 11,
        name: "a whiteout is one by its name, of whatever type and length",
        source: "cvmfs issue 4286: kernels from 5.8 on share one whiteout inode, and tools wrote hard links to it",
        failure: "a file called .wh.x is in the image, and x is back",
        examples: &[applied(
            "a link, a directory, a hard link and a file with content",
            &["f a \"x\"", "f b \"x\"", "f c \"x\"", "f d \"x\"", "f e \"x\""],
            &["l .wh.a -> e", "d .wh.b", "h .wh.c -> e", "f .wh.d \"content\""],
            &["f e \"x\""],
        )],
    },
    Rule {
        number: 12,
        name: "a whiteout of no name is an error",
        source: "OCI image specification, layer.md, \"Whiteouts\"; image-spec issue 1301",
        failure: "the directory itself, or the one above it, is deleted",
        examples: &[
            refused("of the empty name", &["f a \"x\""], &["f .wh. \"\""], InvalidArgument, "whiteout of no name"),
            refused(
                "of the directory",
                &["d d", "f d/a \"x\""],
                &["f d/.wh.. \"\""],
                InvalidArgument,
                "whiteout of no name",
            ),
            refused(
                "of the directory above",
                &["d d", "f d/a \"x\""],
                &["f d/.wh... \"\""],
                InvalidArgument,
                "whiteout of no name",
            ),
        ],
    },
    Rule {
        number: 13,
        name: "what aufs kept for itself means nothing",
        source: "aufs: .wh..wh.plnk, .wh..wh.aufs, .wh..wh.orph; moby keeps them out as well",
        failure: "files of a storage driver of 2014 are in the image",
        examples: &[
            applied(
                "files and what is below them",
                &[],
                &["d .wh..wh.plnk", "f .wh..wh.plnk/1.2 \"x\"", "f .wh..wh.aufs \"\"", "d .wh..wh.orph"],
                &[],
            ),
            refused(
                "a hard link to one",
                &[],
                &["f .wh..wh.plnk/1.2 \"x\"", "h a -> .wh..wh.plnk/1.2"],
                InvalidArgument,
                "no file of a tree",
            ),
        ],
    },
    Rule {
        number: 14,
        name: "odd names can be whited out, and too long ones go with their directory",
        source: "NAME_MAX is 255 bytes, and .wh. takes four of them",
        failure: "a file whose name is long cannot be deleted",
        examples: &[
            applied(
                "a newline, bytes that are no text, and the longest name",
                &["f a\\x0ab \"x\"", "f \\xff\\xfe \"x\"", "f {n*255} \"x\""],
                &["f .wh.a\\x0ab \"\"", "f .wh.\\xff\\xfe \"\"", "f .wh.{n*255} \"\""],
                &[],
            ),
            applied(
                "names of 252 and of 255 bytes in an opaque directory",
                &["d d", "f d/{m*252} \"x\"", "f d/{n*255} \"x\""],
                &["f d/.wh..wh..opq \"\"", "f d/{n*255} \"y\""],
                &["d d", "f d/{n*255} \"y\""],
            ),
            refused(
                "a name that is too long for any file system",
                &[],
                &["f {n*256} \"x\""],
                InvalidArgument,
                "256 bytes",
            ),
        ],
    },
    Rule {
        number: 15,
        name: "a whiteout works through a link to a directory",
        source: "distributions with a merged /usr: bin/.wh.sh where bin -> usr/bin",
        failure: "the file stays, or the link goes",
        examples: &[applied(
            "merged /usr",
            &["d usr", "d usr/bin", "f usr/bin/sh \"x\"", "l bin -> usr/bin"],
            &["f bin/.wh.sh \"\""],
            &["l bin -> usr/bin", "d usr", "d usr/bin"],
        )],
    },
    Rule {
        number: 16,
        name: "a layer that is written against nothing has no whiteouts",
        source: "go-containerregistry issue 1623: a squashed image kept its .wh. files",
        failure: "files called .wh.x are in a squashed image",
        examples: &[squashed(
            "three layers as one",
            &["f a \"x\"", "d d", "f d/a \"x\"", NEXT_LAYER, "f .wh.a \"\"", "f d/.wh..wh..opq \"\"", "f d/b \"y\""],
            &["rm d/b"],
            &["d .", "d d @77"],
        )],
    },
    Rule {
        number: 17,
        name: "whiteouts in the lowest layer remove nothing and stay out of the tree",
        source: WHITEOUTS,
        failure: "an image whose first layer was cut from another cannot be unpacked",
        examples: &[applied(
            "a whiteout and a mark",
            &[],
            &["f .wh.a \"\"", "f d/.wh..wh..opq \"\"", "f b \"x\""],
            &["d d", "f b \"x\""],
        )],
    },
];
