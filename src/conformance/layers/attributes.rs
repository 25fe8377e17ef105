//! Rules 35 to 48: modes, owners, attributes, times and sizes.

use super::notation::archive;
use super::{Rule, applied, decoded, refused, undecodable};
use crate::error::ErrorKind::{DataLoss, InvalidArgument, Unsupported};
use crate::error::Result;

const XATTRS: &str = "star's SCHILY.xattr and libarchive's LIBARCHIVE.xattr; xattr(7)";

const BLOCK_BYTES: usize = 512;

pub(super) const RULES: &[Rule] = &[
    Rule {
        number: 35,
        name: "owner, then mode and attributes, then times: none undoes another",
        source: "chown(2) clears set-id bits, and capabilities go with it; acl(5)",
        failure: "su is no longer set-uid, ping has no capability",
        examples: &[
            applied(
                "set-id bits",
                &[],
                &["f a \"x\" 6755 1:2 @5", "d d 3775 1:2 @5"],
                &["f a \"x\" 6755 1:2 @5", "d d 3775 1:2 @5"],
            ),
            applied(
                "a capability",
                &[],
                &[
                    "f a \"x\" 755 1:2 security.capability=\\x01\\x00\\x00\\x02\\x00\\x20\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00",
                ],
                &[
                    "f a \"x\" 755 1:2 security.capability=\\x01\\x00\\x00\\x02\\x00\\x20\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00",
                ],
            ),
        ],
    },
    Rule {
        number: 36,
        name: "user.* on links and special files cannot be and is dropped; any other attribute that cannot be set is an error",
        source: XATTRS,
        failure: "the pull fails, or an attribute that matters is lost without a word",
        examples: &[
            applied("user.*", &[], &["l a -> b user.a=b", "p p user.a=b"], &["l a -> b", "p p"]),
            applied(
                "trusted.*",
                &[],
                &["l a -> b @4 trusted.a=b", "p p trusted.a=b"],
                &["l a -> b @4 trusted.a=b", "p p trusted.a=b"],
            ),
            refused("of no namespace", &[], &["f a \"x\" nonsense.a=b"], Unsupported, "nonsense.a"),
        ],
    },
    Rule {
        number: 37,
        name: "attributes are a set: what an entry does not name is gone",
        source: "umoci; moby and containerd only add",
        failure: "an attribute that was removed is back",
        examples: &[
            applied("of a directory", &["d d user.a=b user.c=d"], &["d d user.c=e"], &["d d user.c=e"]),
            applied("of a file", &["f a \"x\" user.a=b"], &["f a \"x\""], &["f a \"x\""]),
        ],
    },
    Rule {
        number: 38,
        name: "spellings of attributes: SCHILY's before libarchive's, any bytes, empty ones too; ACLs as text are nothing",
        source: XATTRS,
        failure: "capabilities and access control lists are lost",
        examples: &[
            applied("any bytes", &[], &["f a \"x\" user.a=\\x00\\x0a=\\xff"], &["f a \"x\" user.a=\\x00\\x0a=\\xff"]),
            applied("empty", &[], &["f a \"x\" user.a="], &["f a \"x\" user.a="]),
            applied(
                "libarchive's",
                &[],
                &["f a \"x\" pax:LIBARCHIVE.xattr.user.a%20b=eA=="],
                &["f a \"x\" user.a\\x20b=x"],
            ),
            applied("both", &[], &["f a \"x\" user.a=1 pax:LIBARCHIVE.xattr.user.a=Mg=="], &["f a \"x\" user.a=1"]),
            applied("an ACL as text", &[], &["f a \"x\" pax:SCHILY.acl.access=user::rwx"], &["f a \"x\""]),
        ],
    },
    Rule {
        number: 39,
        name: "overlayfs's own attributes are refused on every strategy; labels of the host do not travel",
        source: "overlayfs.rst; moby and containers/storage set trusted.overlay.* as the image says",
        failure: "an image hides or shows files that it does not have, on one strategy only",
        examples: &[
            refused(
                "opaque",
                &["d d", "f d/a \"x\""],
                &["d d trusted.overlay.opaque=y"],
                InvalidArgument,
                "trusted.overlay.opaque",
            ),
            refused(
                "redirect",
                &[],
                &["d d trusted.overlay.redirect=/etc"],
                InvalidArgument,
                "trusted.overlay.redirect",
            ),
            refused(
                "metacopy",
                &["f a \"x\""],
                &["f a \"\" trusted.overlay.metacopy="],
                InvalidArgument,
                "trusted.overlay.metacopy",
            ),
            refused("in a user namespace", &[], &["d d user.overlay.opaque=y"], InvalidArgument, "user.overlay.opaque"),
            refused(
                "escaped",
                &[],
                &["d d trusted.overlay.overlay.opaque=y"],
                InvalidArgument,
                "trusted.overlay.overlay",
            ),
            applied("labels", &[], &["f a \"x\" security.selinux=l"], &["f a \"x\""]),
        ],
    },
    Rule {
        number: 40,
        name: "a directory gets its attributes and time when all in it is done, and its default ACL marks nothing in it",
        source: "acl(5), \"Object creation and default ACLs\"; BuildKit issue 3602",
        failure: "files get permissions that the image does not give them",
        examples: &[applied(
            "a default ACL",
            &[],
            &[
                "d d 755 @5 system.posix_acl_default=\\x02\\x00\\x00\\x00\\x01\\x00\\x07\\x00\\xff\\xff\\xff\\xff\\x04\\x00\\x07\\x00\\xff\\xff\\xff\\xff\\x20\\x00\\x07\\x00\\xff\\xff\\xff\\xff",
                "f d/a \"x\" 600",
                "d d/e 700",
            ],
            &[
                "d d 755 @5 system.posix_acl_default=\\x02\\x00\\x00\\x00\\x01\\x00\\x07\\x00\\xff\\xff\\xff\\xff\\x04\\x00\\x07\\x00\\xff\\xff\\xff\\xff\\x20\\x00\\x07\\x00\\xff\\xff\\xff\\xff",
                "f d/a \"x\" 600",
                "d d/e 700",
            ],
        )],
    },
    Rule {
        number: 41,
        name: "inode flags are no part of a layer",
        source: "OCI image specification, layer.md, \"File Attributes\"; bsdtar writes SCHILY.fflags",
        failure: "files of a snapshot cannot be removed any more",
        examples: &[applied("immutable", &[], &["f a \"x\" pax:SCHILY.fflags=schg,uchg"], &["f a \"x\""])],
    },
    Rule {
        number: 42,
        name: "times have nanoseconds and may lie before 1970; what is no time is an error",
        source: "POSIX.1-2024, pax, mtime; moby issue 40004; kaniko issue 1808",
        failure: "make builds everything anew, or nothing",
        examples: &[
            applied(
                "in the range of every file system",
                &[],
                &["f a \"x\" @-5.25", "f b \"x\" @1.999999999", "d d @-1", "l l -> a @4000000000.5"],
                &["f a \"x\" @-5.25", "f b \"x\" @1.999999999", "d d @-1", "l l -> a @4000000000.5"],
            ),
            applied("atime and ctime are nothing", &[], &["f a \"x\" pax:atime=9.5 pax:ctime=9"], &["f a \"x\""]),
            refused("no number", &[], &["f a \"x\" pax:mtime=NaN"], DataLoss, "NaN"),
        ],
    },
    Rule {
        number: 43,
        name: "a directory that no entry describes has the time it had below, whatever was made or removed in it",
        source: "umoci restores it as well; BuildKit issue 3912",
        failure: "equal images have different digests",
        examples: &[
            applied("a whiteout", &["d . @8", "d d @9", "f d/a \"x\""], &["f d/.wh.a \"\""], &["d . @8", "d d @9"]),
            applied(
                "files, links and directories",
                &["d d @9", "f d/a \"x\""],
                &["f d/b \"x\"", "h d/c -> d/a", "l d/l -> a", "d d/e @7"],
                &["d d @9", "f d/a \"x\"", "f d/b \"x\"", "h d/c -> d/a", "d d/e @7", "l d/l -> a"],
            ),
        ],
    },
    Rule {
        number: 44,
        name: "modes are masked by 07777, and nothing is inherited from a set-group-id directory or the umask",
        source: "open(2), mkdir(2)",
        failure: "files belong to another group, or others may not read them",
        examples: &[
            applied("more bits", &[], &["f a \"x\" 107644", "d d 41777"], &["f a \"x\" 7644", "d d 1777"]),
            applied(
                "a set-group-id directory",
                &["d d 2755 0:9"],
                &["f d/a \"x\" 666", "d d/e 777", "f d/f/b \"x\""],
                &["d d 2755 0:9", "f d/a \"x\" 666", "d d/e 777", "d d/f", "f d/f/b \"x\""],
            ),
        ],
    },
    Rule {
        number: 45,
        name: "owners of 32 bits, but not the one that means nobody",
        source: "chown(2): -1 leaves the owner as it is; CVE-2024-40635: a wide number wrapped around to root",
        failure: "a file belongs to root",
        examples: &[
            applied(
                "beyond a header's octal digits",
                &[],
                &["f a \"x\" 2097152:4294967294"],
                &["f a \"x\" 2097152:4294967294"],
            ),
            applied("by PAX", &[], &["f a \"x\" pax:uid=3000000 pax:gid=3000001"], &["f a \"x\" 3000000:3000001"]),
            refused("2^32 - 1", &[], &["f a \"x\" 4294967295:0"], InvalidArgument, "4294967295 is out of range"),
            refused("2^32", &[], &["f a \"x\" 0:4294967296"], InvalidArgument, "4294967296 is out of range"),
            refused("by PAX, 2^32", &[], &["f a \"x\" pax:uid=4294967296"], InvalidArgument, "out of range"),
        ],
    },
    Rule {
        number: 46,
        name: "files with holes, in any spelling, have all their bytes",
        source: "GNU tar manual, \"Storing Sparse Files\"",
        failure: "a disk image or a database is short or shifted",
        examples: &[
            applied(
                "0.0",
                &[],
                &[
                    "f a \"AB\" pax:GNU.sparse.size=4 pax:GNU.sparse.numblocks=2 pax:GNU.sparse.offset=1 pax:GNU.sparse.numbytes=1 pax:GNU.sparse.offset=3 pax:GNU.sparse.numbytes=1",
                ],
                &["f a \"\\x00A\\x00B\""],
            ),
            applied(
                "0.1",
                &[],
                &["f x \"AB\" pax:GNU.sparse.name=a pax:GNU.sparse.size=5 pax:GNU.sparse.map=1,1,3,1"],
                &["f a \"\\x00A\\x00B\\x00\""],
            ),
            applied(
                "1.0",
                &[],
                &[
                    "f x \"2\\x0a1\\x0a1\\x0a3\\x0a1\\x0a{\\x00*502}AB\" pax:GNU.sparse.major=1 pax:GNU.sparse.minor=0 pax:GNU.sparse.name=a pax:GNU.sparse.realsize=4",
                ],
                &["f a \"\\x00A\\x00B\""],
            ),
            decoded("GNU's oldest", gnu_sparse, &["f a \"\\x00\\x00A\\x00\""]),
            refused(
                "a map that lies",
                &[],
                &["f a \"AB\" pax:GNU.sparse.size=2 pax:GNU.sparse.map=1,9"],
                DataLoss,
                "sparse",
            ),
        ],
    },
    Rule {
        number: 47,
        name: "a PAX size holds for the entry, not for headers in between; entries without content have none",
        source: "RUSTSEC-2026-0068, RUSTSEC-2026-0112, GHSA-3cv2-h65g-fgmm: readers disagreed on what is content",
        failure: "a file that scanners did not see is in the image",
        examples: &[
            applied(
                "instead of the header's",
                &[],
                &["f a \"12345\" size=0 pax:size=5", "f b \"x\""],
                &["f a \"12345\"", "f b \"x\""],
            ),
            decoded("before a GNU long name", pax_size_and_gnu_name, &["f {n*150} \"12345\"", "f z \"x\""]),
            applied("of a link", &[], &["l a -> b size=9", "f c \"x\""], &["l a -> b", "f c \"x\""]),
            applied("of a directory", &[], &["d a size=600", "f c \"x\""], &["d a", "f c \"x\""]),
            undecodable(
                "longer than the archive",
                || archive(&["f a \"12345\" pax:size=5000000000"]),
                DataLoss,
                "inside an entry",
            ),
        ],
    },
    Rule {
        number: 48,
        name: "names that differ in case only are two files",
        source: "path_resolution(7); ext4's casefold, which overlayfs refuses",
        failure: "one file overwrites another",
        examples: &[applied("two files", &[], &["f a \"1\"", "f A \"2\""], &["f A \"2\"", "f a \"1\""])],
    },
];

/// Returns an archive of a sparse file of four bytes, one of them stored, with the sparse map in the GNU header.
fn gnu_sparse() -> Result<Vec<u8>> {
    let mut bytes = archive(&["=S a \"A\""])?;
    bytes[257..265].copy_from_slice(b"ustar  \0");
    bytes[345..BLOCK_BYTES].fill(0);
    bytes[386..410].copy_from_slice(b"00000000002\x0000000000001\0");
    bytes[483..495].copy_from_slice(b"00000000004\0");
    seal(&mut bytes, 0);
    Ok(bytes)
}

/// Returns an archive with a PAX size and then a GNU long name, both for the file that follows.
fn pax_size_and_gnu_name() -> Result<Vec<u8>> {
    let pax = archive(&["f a \"\" pax:size=5"])?;
    let file = archive(&["f {n*150} \"12345\" gnu", "f z \"x\""])?;
    let mut bytes = [&pax[..2 * BLOCK_BYTES], &file[..]].concat();
    // The size in the file's own header differs from the PAX size.
    let at = 4 * BLOCK_BYTES;
    bytes[at + 124..at + 136].copy_from_slice(b"00000000000\0");
    seal(&mut bytes, at);
    Ok(bytes)
}

/// Writes the correct checksum into the header at `at`.
fn seal(archive: &mut [u8], at: usize) {
    let block = &mut archive[at..at + BLOCK_BYTES];
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
