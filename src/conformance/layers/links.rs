//! Rules 30 to 34: hard links and devices.

use super::{Rule, applied, edited, refused};
use crate::error::ErrorKind::InvalidArgument;

pub(super) const RULES: &[Rule] = &[
    Rule {
        number: 30,
        name: "a hard link takes the inode of its target, of this layer or of one below, and no attributes of its own",
        source: "OCI image specification, layer.md, \"Hardlinks\"; POSIX.1-2024, pax; containerd fails for targets below",
        failure: "the pull fails with ENOENT, or a file is another one",
        examples: &[
            applied(
                "to an earlier entry",
                &[],
                &["f a \"x\" 600 @3", "h b -> a 777 5:6 @9"],
                &["f a \"x\" 600 @3", "h b -> a"],
            ),
            applied(
                "to an entry below",
                &["f a \"x\" 600 1:2 @3"],
                &["h d/b -> a"],
                &["f a \"x\" 600 1:2 @3", "d d", "h d/b -> a"],
            ),
            applied(
                "to a later entry",
                &[],
                &["h a -> d/b", "d d 700 @3", "f d/b \"x\""],
                &["f a \"x\"", "d d 700 @3", "h d/b -> a"],
            ),
            applied(
                "a chain of later ones",
                &[],
                &["h a -> b", "h b -> c", "f c \"x\""],
                &["f a \"x\"", "h b -> a", "h c -> a"],
            ),
            applied(
                "to a link, not through it",
                &["f f \"x\""],
                &["l a -> f @4", "h b -> a"],
                &["l a -> f @4", "h b -> a", "f f \"x\""],
            ),
            applied("over a file", &["f a \"x\"", "f b \"y\""], &["h b -> a"], &["f a \"x\"", "h b -> a"]),
            applied(
                "over another name of the same",
                &["f a \"x\"", "h b -> a"],
                &["h b -> a"],
                &["f a \"x\"", "h b -> a"],
            ),
            applied(
                "to a name that is whited out and made again",
                &["f a \"x\""],
                &["h b -> a", "f .wh.a \"\"", "f a \"y\""],
                &["f a \"y\"", "h b -> a"],
            ),
            refused("to nothing", &[], &["h a -> b"], InvalidArgument, "no such entry"),
            refused("to itself", &["f a \"x\""], &["h a -> a"], InvalidArgument, "to itself"),
            refused("to each other", &[], &["h a -> b", "h b -> a"], InvalidArgument, "no such entry"),
            refused("to a directory", &["d d"], &["h a -> d"], InvalidArgument, "is a directory"),
            refused(
                "to a name whited out before",
                &["f a \"x\""],
                &["f .wh.a \"\"", "h b -> a"],
                InvalidArgument,
                "no such entry",
            ),
            refused(
                "to a name whited out after",
                &["f a \"x\""],
                &["h b -> a", "f .wh.a \"\""],
                InvalidArgument,
                "no such entry",
            ),
        ],
    },
    Rule {
        number: 31,
        name: "the target of a hard link is resolved inside the root",
        source: "CVE-2014-6407, CVE-2014-9356; RUSTSEC-2018-0002",
        failure: "a file of the machine is in the image",
        examples: &[applied(
            "through a link that leads outside",
            &["d etc", "f etc/passwd \"x\"", "l out -> /../../etc"],
            &["h a -> out/passwd"],
            &["f a \"x\"", "d etc", "h etc/passwd -> a", "l out -> /../../etc"],
        )],
    },
    Rule {
        number: 33,
        name: "of a file with several names all are written, the first as a file, if one is new or changed",
        source: "moby issues 5632 and 16813: a file for each name; engines that tell inodes by number alone",
        failure: "the image grows, or two files that were one are two",
        examples: &[
            edited(
                "a new name of a file below",
                &["d . @3", "f a \"y\" 600 @4"],
                &["ln a b", "touch ."],
                &["d . @77", "f a \"y\" 600 @4", "h b -> a 600 @4"],
            ),
            edited(
                "two new names",
                &["d . @3"],
                &["write a \"y\"", "ln a b"],
                &["d . @77", "f a \"y\" @77", "h b -> a @77"],
            ),
            edited(
                "a name that is replaced",
                &["d . @3", "f a \"y\" @4", "h b -> a"],
                &["rm b", "write b \"z\""],
                &["d . @77", "f b \"z\" @77"],
            ),
            edited(
                "a name that goes",
                &["d . @3", "f a \"y\" @4", "h b -> a"],
                &["rm b"],
                &["d . @77", "f .wh.b \"\" 0"],
            ),
        ],
    },
    Rule {
        number: 34,
        name: "device numbers that Linux has, but not 0:0, which is overlayfs's whiteout",
        source: "overlayfs.rst, \"whiteouts and opaque directories\"; mknod(2): 12 and 20 bits",
        failure: "an image deletes files of its own base on one strategy and not on another",
        examples: &[
            applied(
                "devices and a fifo",
                &[],
                &["c a dev=1:3 666", "b b dev=7:0", "p p", "c c dev=510:262143"],
                &["c a dev=1:3 666", "b b dev=7:0", "c c dev=510:262143", "p p"],
            ),
            refused("0:0", &["f a \"x\""], &["c a dev=0:0"], InvalidArgument, "0:0"),
            refused("block 0:0", &["f a \"x\""], &["b a dev=0:0"], InvalidArgument, "0:0"),
            refused("a major number of 13 bits", &[], &["c a dev=4096:0"], InvalidArgument, "out of range"),
            refused("a minor number of 21 bits", &[], &["b a dev=1:1048576"], InvalidArgument, "out of range"),
        ],
    },
];
