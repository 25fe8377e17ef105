//! Rules 18 to 29: target paths of entries, and validity of archives.

use super::notation::archive;
use super::{Rule, applied, decoded, refused, undecodable};
use crate::error::ErrorKind::{DataLoss, InvalidArgument, ResourceExhausted};
use crate::error::Result;

const APPLYING: &str = "OCI image specification, layer.md, \"Applying Changesets\"";
const PAX: &str = "POSIX.1-2024, pax; GNU tar manual, \"Extensions\"";

const BLOCK_BYTES: usize = 512;

/// An entry of rule 22, written with each type byte that must be treated as a file.
const OTHER: &str = "f other \"o\"";

pub(super) const RULES: &[Rule] = &[
    Rule {
        number: 18,
        name: "a directory that no entry describes keeps what it has below, or is 0755 0:0",
        source: "containerd: parallel unpack made it 0755; containers/storage issue 1288: 0600; rules_docker issue 693: /tmp lost 1777",
        failure: "/tmp is no longer writable, a private directory is open to all",
        examples: &[
            applied("missing", &[], &["f a/b/c \"x\" 600 1:2 @7"], &["d a", "d a/b", "f a/b/c \"x\" 600 1:2 @7"]),
            applied(
                "there",
                &["d t 1777 5:6 @9 user.a=b", "d t/u 2750 7:8 @8"],
                &["f t/u/new \"x\""],
                &["d t 1777 5:6 @9 user.a=b", "d t/u 2750 7:8 @8", "f t/u/new \"x\""],
            ),
            applied("described later", &[], &["f a/b \"x\"", "d a 700 @5"], &["d a 700 @5", "f a/b \"x\""]),
        ],
    },
    Rule {
        number: 19,
        name: "a parent that is no directory nor a link to one becomes a directory",
        source: APPLYING,
        failure: "the pull fails with ENOTDIR",
        examples: &[
            applied("over a file", &["f a \"x\""], &["f a/b \"y\""], &["d a", "f a/b \"y\""]),
            applied("over a file of the layer", &[], &["f a \"x\"", "f a/b \"y\""], &["d a", "f a/b \"y\""]),
            applied(
                "over a link to a file",
                &["f f \"x\"", "l a -> f"],
                &["f a/b \"y\""],
                &["d a", "f a/b \"y\"", "f f \"x\""],
            ),
            applied("over a link to nothing", &["l a -> nowhere"], &["f a/b \"y\""], &["d a", "f a/b \"y\""]),
            applied(
                "where it was whited out",
                &["f a \"x\""],
                &["f .wh.a \"\"", "f a/b \"y\""],
                &["d a", "f a/b \"y\""],
            ),
        ],
    },
    Rule {
        number: 20,
        name: "a parent that is a link to a directory is followed, inside the root",
        source: "distributions with a merged /usr; moby issue 53261: absolute links; path_resolution(7)",
        failure: "lib becomes a directory of its own and the programs in usr/lib are lost",
        examples: &[
            applied(
                "merged /usr",
                &["d usr", "d usr/lib 700 @4", "l lib -> usr/lib"],
                &["f lib/x \"y\"", "d lib/d/e"],
                &["l lib -> usr/lib", "d usr", "d usr/lib 700 @4", "d usr/lib/d", "d usr/lib/d/e", "f usr/lib/x \"y\""],
            ),
            applied(
                "absolute, and above the root",
                &["d run", "d var", "l var/run -> /run", "l up -> ../../../run"],
                &["f var/run/a \"x\"", "f up/b \"y\""],
                &["d run", "f run/a \"x\"", "f run/b \"y\"", "l up -> ../../../run", "d var", "l var/run -> /run"],
            ),
            applied(
                "a link of the same layer",
                &["d d"],
                &["l l -> d", "f l/a \"x\""],
                &["d d", "f d/a \"x\"", "l l -> d"],
            ),
            refused("a loop", &["l a -> b", "l b -> a"], &["f a/c \"x\""], InvalidArgument, "more than 40"),
        ],
    },
    Rule {
        number: 21,
        name: "a directory replaces a link to a directory",
        source: APPLYING,
        failure: "two directories that should be apart are one",
        examples: &[applied(
            "and what follows goes into it",
            &["d d", "f d/x \"x\"", "l l -> d"],
            &["d l 700", "f l/y \"y\""],
            &["d d", "f d/x \"x\"", "d l 700", "f l/y \"y\""],
        )],
    },
    Rule {
        number: 22,
        name: "anything replaces anything; only a directory over a directory keeps what is in it",
        source: APPLYING,
        failure: "the pull fails with EISDIR, or old content stays below a new directory",
        examples: &[
            applied("a file over a directory", &["d a", "f a/b \"x\""], &["f a \"y\""], &["f a \"y\""]),
            applied("a link over a directory", &["d a", "f a/b \"x\""], &["l a -> b"], &["l a -> b"]),
            applied("a fifo over a directory", &["d a", "f a/b \"x\""], &["p a"], &["p a"]),
            applied("a device over a directory", &["d a", "f a/b \"x\""], &["c a dev=1:3"], &["c a dev=1:3"]),
            applied(
                "a hard link over a directory",
                &["d a", "f a/b \"x\"", OTHER],
                &["h a -> other"],
                &["f a \"o\"", "h other -> a"],
            ),
            applied(
                "a directory over a directory",
                &["d a 711", "f a/b \"x\""],
                &["d a 700"],
                &["d a 700", "f a/b \"x\""],
            ),
            applied("a directory over a file", &["f a \"x\""], &["d a 700"], &["d a 700"]),
            applied("a directory over a fifo", &["p a"], &["d a 700"], &["d a 700"]),
            applied(
                "a file over a link, not through it",
                &["l a -> other", OTHER],
                &["f a \"y\""],
                &["f a \"y\"", OTHER],
            ),
            applied("a file over a device", &["c a dev=1:3"], &["f a \"y\""], &["f a \"y\""]),
            applied("a file over a file", &["f a \"x\" 600 1:2 user.a=b"], &["f a \"y\""], &["f a \"y\""]),
            applied("a link over a file", &["f a \"x\""], &["l a -> b"], &["l a -> b"]),
            applied("a link over a link", &["l a -> x"], &["l a -> b"], &["l a -> b"]),
            applied("a block device over a link", &["l a -> x"], &["b a dev=7:0"], &["b a dev=7:0"]),
            applied(
                "a file over one of two names",
                &["f a \"x\"", "h b -> a"],
                &["f a \"y\""],
                &["f a \"y\"", "f b \"x\""],
            ),
        ],
    },
    Rule {
        number: 23,
        name: "the root has attributes like any directory, and is nothing else",
        source: "moby issue 41261; CVE-2021-29136: a link in the place of the root",
        failure: "chmod / has no effect; a layer is written somewhere else on the machine",
        examples: &[
            applied("as ./", &["f a \"x\""], &["d . 700 3:4 @5 user.a=b"], &["d . 700 3:4 @5 user.a=b", "f a \"x\""]),
            applied("as /", &[], &["d / 700"], &["d . 700"]),
            applied(
                "kept",
                &["d . 711 3:4 @5 user.a=b"],
                &["f a \"x\"", "f .wh.b \"\""],
                &["d . 711 3:4 @5 user.a=b", "f a \"x\""],
            ),
            refused("a link", &[], &["l . -> /etc"], InvalidArgument, "the root can only be a directory"),
            refused("a file", &[], &["f . \"x\""], InvalidArgument, "the root can only be a directory"),
            refused("a hard link", &["f a \"x\""], &["h . -> a"], InvalidArgument, "the root can only be a directory"),
        ],
    },
    Rule {
        number: 24,
        name: "names are relative to the root, and none leaves it",
        source: "CVE-2014-9356; moby rejects, others clamp",
        failure: "a layer writes files of the machine",
        examples: &[
            applied("absolute", &[], &["f /a/b \"x\""], &["d a", "f a/b \"x\""]),
            applied("inner dots", &[], &["f a/../b/./c \"x\""], &["d b", "f b/c \"x\""]),
            refused("upwards", &[], &["f ../a \"x\""], InvalidArgument, "leaves the root"),
            refused("upwards later", &[], &["f a/../../b \"x\""], InvalidArgument, "leaves the root"),
            refused("a link's target upwards", &["f a \"x\""], &["h b -> ../a"], InvalidArgument, "leaves the root"),
            refused("a whiteout upwards", &[], &["f ../.wh.a \"\""], InvalidArgument, "leaves the root"),
        ],
    },
    Rule {
        number: 25,
        name: "odd spellings of names",
        source: "image tianon/test:badtars; POSIX.1-2024, pax",
        failure: "an image that others read cannot be unpacked, or goes where it should not",
        examples: &[
            applied("doubled slashes", &[], &["f a//b \"x\""], &["d a", "f a/b \"x\""]),
            applied("a file with a slash at the end is a directory", &[], &["f a/ \"x\""], &["d a 644"]),
            applied("a name of 255 bytes, by PAX", &[], &["f {n*255} \"x\""], &["f {n*255} \"x\""]),
            applied(
                "a long path and target, by GNU",
                &[],
                &["d {a*80}", "f {a*80}/{b*80} \"x\" gnu", "l l -> {t*200} gnu"],
                &["l l -> {t*200}", "d {a*80}", "f {a*80}/{b*80} \"x\""],
            ),
            refused("an empty name", &[], &["f {n*0} \"x\""], InvalidArgument, "an empty path"),
            refused("a NUL byte", &[], &["f x \"x\" pax:path=a\\x00b"], InvalidArgument, "a NUL byte"),
            refused(
                "longer than any limit",
                &[],
                &["f x \"\" pax:path={n/*10000}"],
                ResourceExhausted,
                "a path of 20000 bytes",
            ),
        ],
    },
    Rule {
        number: 26,
        name: "names are bytes",
        source: "image tianon/test:badtars-invalid-utf8; POSIX.1-2024, pax, hdrcharset",
        failure: "files with old names are lost or renamed",
        examples: &[
            applied(
                "in a header",
                &[],
                &["f \\xff\\xfe\\x0a \"x\"", "l l -> \\xe9"],
                &["l l -> \\xe9", "f \\xff\\xfe\\x0a \"x\""],
            ),
            applied(
                "in a PAX header",
                &[],
                &["f x \"x\" pax:hdrcharset=BINARY pax:path={\\xff*200}"],
                &["f {\\xff*200} \"x\""],
            ),
        ],
    },
    Rule {
        number: 27,
        name: "of two entries for one path the later one wins",
        source: "OCI image specification, layer.md; image-spec issue 196; POSIX.1-2024, pax",
        failure: "which file is in the image depends on the tool",
        examples: &[
            applied("files", &[], &["f a \"1\"", "f a \"2\" 600"], &["f a \"2\" 600"]),
            applied("attributes", &[], &["d a 711 user.a=b", "d a 700 user.c=d"], &["d a 700 user.c=d"]),
            applied(
                "a directory and all in it, then a file",
                &[],
                &["d a", "f a/b \"1\"", "f a \"2\""],
                &["f a \"2\""],
            ),
            applied(
                "a file, then a directory",
                &[],
                &["f a \"1\"", "d a 711", "f a/b \"2\""],
                &["d a 711", "f a/b \"2\""],
            ),
        ],
    },
    Rule {
        number: 28,
        name: "types of entries: contiguous files are files, global headers and labels nothing, others an error",
        source: PAX,
        failure: "something that nobody understood is left out without a word",
        examples: &[
            applied("a contiguous file", &[], &["=7 a \"x\""], &["f a \"x\""]),
            applied(
                "a global header and a volume label",
                &[],
                &["=g g \"9\\x20path=z\\x0a\"", "=V label", "f a \"x\""],
                &["f a \"x\""],
            ),
            refused("an unknown type", &[], &["=Z a"], InvalidArgument, "type 'Z'"),
            refused("a continued file of GNU's", &[], &["=M a"], InvalidArgument, "type 'M'"),
        ],
    },
    Rule {
        number: 29,
        name: "an archive ends with zero blocks or at a block's boundary, and little may follow",
        source: "CVE-2017-14992: padding without end; tar-split; umoci reads and digests what trails",
        failure: "a cut download passes for an image, or a small layer fills the memory",
        examples: &[
            decoded("two zero blocks", || with_end(2 * BLOCK_BYTES), &["f a \"x\""]),
            decoded("one zero block", || with_end(BLOCK_BYTES), &["f a \"x\""]),
            decoded("no zero block", || with_end(0), &["f a \"x\""]),
            decoded("a record of 10 KiB", || with_end(20 * BLOCK_BYTES), &["f a \"x\""]),
            decoded("nothing but the end", || Ok(vec![0; 2 * BLOCK_BYTES]), &[]),
            decoded(
                "more than 1 MiB of zeros behind the end",
                || with_end((1 << 20) + 3 * BLOCK_BYTES),
                &["f a \"x\""],
            ),
            undecodable(
                "more than 1 MiB of other bytes behind the end",
                || with_end(2 * BLOCK_BYTES).map(|bytes| [bytes, vec![b'x'; (1 << 20) + BLOCK_BYTES]].concat()),
                ResourceExhausted,
                "follow the end",
            ),
            decoded("of no length", || Ok(Vec::new()), &[]),
            undecodable("cut inside a file", || cut(BLOCK_BYTES), DataLoss, "inside an entry"),
            undecodable("cut inside a header", || cut(100), DataLoss, "inside a header"),
        ],
    },
];

/// Returns an archive of one file, followed by that many zeros instead of the usual end.
fn with_end(zeros: usize) -> Result<Vec<u8>> {
    let mut bytes = archive(&["f a \"x\""])?;
    bytes.truncate(2 * BLOCK_BYTES);
    bytes.resize(2 * BLOCK_BYTES + zeros, 0);
    Ok(bytes)
}

/// Returns the first `length` bytes of an archive of one file.
fn cut(length: usize) -> Result<Vec<u8>> {
    let mut bytes = archive(&["f a \"x\""])?;
    bytes.truncate(length);
    Ok(bytes)
}
