//! Rules 49 to 60: the layer that is written for a change.

use super::{Example, ExampleStep, Expected, NEXT_LAYER, Rule, edited, squashed};
use crate::error::ErrorKind::InvalidArgument;

const CREATING: &str = "OCI image specification, layer.md, \"Creating Layers\"";

pub(super) const RULES: &[Rule] = &[
    Rule {
        number: 49,
        name: "what was copied up without being changed is no change",
        source: "BuildKit issue 2480; moby's and containers/storage's native differs",
        failure: "a step that changed nothing makes a layer",
        examples: &[
            edited("a file that was opened for writing", &["d . @3", "f a \"y\" @4"], &["open a"], &[]),
            edited("the same bytes and time", &["d . @3", "f a \"y\" @4"], &["rewrite a"], &[]),
            edited(
                "the same mode",
                &["d . @3", "d d 711 @4", "f d/a \"y\" 600 @4"],
                &["chmod 600 d/a", "chmod 711 d"],
                &[],
            ),
            edited("there and back", &["d . @3", "f a \"y\" @4"], &["mv a b", "mv b a"], &[]),
            edited(
                "an attribute that came and went",
                &["d . @3", "f a \"y\" @4"],
                &["setfattr user.a=b a", "rmfattr user.a a"],
                &[],
            ),
            edited("another time is one", &["d . @3", "f a \"y\" @4"], &["touch a"], &["d . @3", "f a \"y\" @77"]),
        ],
    },
    Rule {
        number: 50,
        name: "a directory whose attributes changed is one entry; one whose time alone changed is none",
        source: "moby issue 9874 (times), BuildKit: setfacl and setfattr of a directory are lost",
        failure: "chmod of a directory has no effect, or a temporary file makes a layer",
        examples: &[
            edited("mode", &["d . @3", "d d @4", "f d/a \"y\" @4"], &["chmod 700 d"], &["d . @3", "d d 700 @4"]),
            edited("owner", &["d . @3", "d d @4", "f d/a \"y\" @4"], &["chown 5:6 755 d"], &["d . @3", "d d 5:6 @4"]),
            edited("an attribute", &["d . @3", "d d @4"], &["setfattr user.a=b d"], &["d . @3", "d d @4 user.a=b"]),
            edited("time alone", &["d . @3", "d d @4", "f d/a \"y\" @4"], &["touch d"], &[]),
            edited("a file that came and went", &["d . @3", "d d @4"], &["write d/t \"y\"", "rm d/t"], &[]),
            edited(
                "an attribute of a file",
                &["d . @3", "f a \"y\" @4"],
                &["setfattr user.a=b a"],
                &["d . @3", "f a \"y\" @4 user.a=b"],
            ),
            edited("the root", &["d . @3"], &["chmod 700 ."], &["d . 700 @3"]),
        ],
    },
    Rule {
        number: 51,
        name: "another type is one entry; a directory made anew names what vanished",
        source: CREATING,
        failure: "whiteouts of what is there, or old files in a new directory",
        examples: &[
            edited(
                "a file, now a directory",
                &["d . @3", "f a \"y\" @4"],
                &["rm a", "mkdir a"],
                &["d . @77", "d a @77"],
            ),
            edited(
                "a directory, now a file",
                &["d . @3", "d a @4", "f a/b \"y\" @4"],
                &["rm a", "write a \"z\""],
                &["d . @77", "f a \"z\" @77"],
            ),
            edited(
                "a file, now a link",
                &["d . @3", "f a \"y\" @4"],
                &["rm a", "symlink b a"],
                &["d . @77", "l a -> b @77"],
            ),
            edited(
                "a directory, made anew",
                &["d . @3", "d a @4", "f a/b \"y\" @4", "f a/c \"y\" @4"],
                &["rm a", "mkdir a", "write a/d \"z\""],
                &["d . @77", "d a @77", "f a/.wh.b \"\" 0", "f a/.wh.c \"\" 0", "f a/d \"z\" @77"],
            ),
        ],
    },
    Rule {
        number: 52,
        name: "a directory that was moved is a whiteout and all that is in it",
        source: "overlayfs.rst, redirect_dir: mounts are made with redirect_dir=nofollow, so no redirect arises",
        failure: "a moved directory is empty in the image",
        examples: &[
            edited(
                "moved",
                &["d . @3", "d a @4", "f a/b \"y\" @4"],
                &["mv a c"],
                &["d . @77", "f .wh.a \"\" 0", "d c @4", "f c/b \"y\" @4"],
            ),
            edited(
                "two directories with equal names in them change places",
                &["d . @3", "d a @4", "f a/f \"A\" @4", "d b @4", "f b/f \"B\" @4"],
                &["exchange a b"],
                &["d . @77", "d a @77", "f a/f \"B\" @4", "d b @77", "f b/f \"A\" @4"],
            ),
        ],
    },
    Rule {
        number: 53,
        name: "the whiteout of a directory is one entry",
        source: CREATING,
        failure: "layers that grow with what they delete",
        examples: &[edited(
            "with all in it",
            &["d . @3", "d d @4", "d d/e @4", "f d/e/a \"y\" @4"],
            &["rm d"],
            &["d . @77", "f .wh.d \"\" 0"],
        )],
    },
    Rule {
        number: 54,
        name: "one order, whiteouts before their siblings, and ancestors with what they have",
        source: "OCI image specification, layer.md, \"Whiteouts\"; reproducible builds; containerd's parallel unpack widens a parent that is missing",
        failure: "equal changes have different digests",
        examples: &[
            edited(
                "by the bytes of the names, depth first",
                &["d . @3", "f b \"y\" @4", "f z \"y\" @4"],
                &["rm z", "mkdir d", "write d/a \"y\"", "write d- \"y\"", "write A \"y\"", "rm b"],
                &[
                    "d . @77",
                    "f .wh.b \"\" 0",
                    "f .wh.z \"\" 0",
                    "f A \"y\" @77",
                    "d d @77",
                    "f d/a \"y\" @77",
                    "f d- \"y\" @77",
                ],
            ),
            edited(
                "ancestors",
                &["d . 711 @3", "d p 700 7:8 @4 user.a=b", "d p/q 1777 @5"],
                &["write p/q/a \"y\""],
                &["d . 711 @3", "d p 700 7:8 @4 user.a=b", "d p/q 1777 @77", "f p/q/a \"y\" @77"],
            ),
        ],
    },
    Rule {
        number: 55,
        name: "a file whose name would mean a deletion is refused",
        source: "OCI image specification, layer.md, \"Whiteouts\"; others write it, and the image lacks a file",
        failure: "a file of the image is deleted, without a word",
        examples: &[
            Example {
                name: "as a whiteout",
                lower: &["d d", "f d/x \"y\""],
                step: ExampleStep::Edits(&["write d/.wh.x \"y\""]),
                expected: Expected::Refused(InvalidArgument, "d/.wh.x"),
            },
            Example {
                name: "as the mark of an opaque directory",
                lower: &["d d", "f d/x \"y\""],
                step: ExampleStep::Edits(&["write d/.wh..wh..opq \"y\""]),
                expected: Expected::Refused(InvalidArgument, "d/.wh..wh..opq"),
            },
            Example {
                name: "as a directory",
                lower: &[],
                step: ExampleStep::Edits(&["mkdir .wh.d", "write .wh.d/a \"y\""]),
                expected: Expected::Refused(InvalidArgument, ".wh.d"),
            },
        ],
    },
    Rule {
        number: 59,
        name: "lost+found is a directory like any other",
        source: "differs that leave the name out on behalf of ext4",
        failure: "a directory of the image is missing",
        examples: &[edited(
            "made and filled",
            &["d . @3"],
            &["mkdir lost+found", "write lost+found/a \"y\""],
            &["d . @77", "d lost+found @77", "f lost+found/a \"y\" @77"],
        )],
    },
    Rule {
        number: 60,
        name: "a layer can be written against any snapshot, and against nothing",
        source: "containerd, services/diff: Compare; docker export",
        failure: "an image cannot be squashed",
        examples: &[squashed(
            "against nothing",
            &["d . 711 @3", "f a \"y\" 600 @4", NEXT_LAYER, "f .wh.a \"\"", "f b \"x\" @5"],
            &["write c \"z\""],
            &["d . 711 @77", "f b \"x\" @5", "f c \"z\" @77"],
        )],
    },
];
