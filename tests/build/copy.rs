//! The results of COPY and ADD, the same on every strategy.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, inotify};
use strata::ErrorKind;
use strata::id::DiffId;
use strata::tree::{Device, Node};

use super::{Bench, Heard, Wish, on_each};

/// A context with one of everything, the same each time.
pub(crate) fn fill(bench: &Bench) {
    for name in ["plain", "d/one", "d/sub/two", "d/sub/three.log", "tree/bin/tool"] {
        bench.write(name, name);
    }
    bench.write(".dockerignore", "**/*.log\n");
    let context = bench.context();
    // Owners and extended attributes of context files do not count.
    std::os::unix::fs::chown(context.join("plain"), Some(7), Some(8)).expect("chown");
    let attribute = (c"user.note", b"x");
    rustix::fs::setxattr(context.join("plain"), attribute.0, attribute.1, rustix::fs::XattrFlags::empty())
        .expect("set");
    for (target, link) in [("plain", "link"), ("one", "d/inner")] {
        symlink(target, context.join(link)).expect("link");
        let status = Command::new("touch").args(["-h", "-d", "@1000000000"]).arg(context.join(link)).status();
        assert!(status.expect("run touch").success());
    }
    fs::hard_link(context.join("d/one"), context.join("d/same")).expect("link");
    fs::set_permissions(context.join("d/sub"), fs::Permissions::from_mode(0o700)).expect("chmod");
    for (name, options) in
        [("plain.tar", "-cf"), ("zipped.tgz", "-czf"), ("packed.tar.xz", "-cJf"), ("packed.tar.bz2", "-cjf")]
    {
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "--owner=5", "--group=6", "--mtime=@1000000000", "-C"]).arg(context.join("d"));
        let status = tar.arg(options).arg(context.join(name)).args(["one", "sub"]).status().expect("run tar");
        assert!(status.success());
        bench.touch(name, 1_000_000_000);
    }
    for name in ["d", "d/sub", "tree", "tree/bin"] {
        bench.touch(name, 1_000_000_000);
    }
}

/// Instructions, and lines of the tree that they make: mode, owner, path.
pub(crate) const CASES: &[(&str, &[&str])] = &[
    ("COPY plain /x", &["644 0:0 x"]),
    ("COPY plain /new/dir/", &["755 0:0 new", "755 0:0 new/dir", "644 0:0 new/dir/plain"]),
    ("COPY plain link /y/", &["755 0:0 y", "644 0:0 y/link", "644 0:0 y/plain"]),
    ("COPY plain /etc/passwd", &["644 0:0 etc/passwd"]),
    (
        "COPY d /z",
        &["755 0:0 z", "777 0:0 z/inner", "644 0:0 z/one", "644 0:0 z/same", "700 0:0 z/sub", "644 0:0 z/sub/two"],
    ),
    ("COPY d/sub /etc", &["644 0:0 etc/two"]),
    ("COPY pl?in d/s* /w/", &["755 0:0 w", "644 0:0 w/plain", "644 0:0 w/same", "644 0:0 w/two"]),
    // A name has its own group, a number alone is that of the group, too.
    ("COPY --chown=alice plain /x", &["644 1000:100 x"]),
    ("COPY --chown=1000 plain /x", &["644 1000:1000 x"]),
    ("COPY --chown=alice plain /new/dir/x", &["755 1000:100 new", "755 1000:100 new/dir", "644 1000:100 new/dir/x"]),
    ("COPY --chmod=750 plain /new/x", &["750 0:0 new", "750 0:0 new/x"]),
    ("COPY --chmod=u=rwX,go=rX d /z", &["755 0:0 z", "644 0:0 z/one", "755 0:0 z/sub", "644 0:0 z/sub/two"]),
    ("COPY --chmod=u+s plain /new/x", &["755 0:0 new", "4644 0:0 new/x"]),
    ("USER alice\nWORKDIR /w/x\nWORKDIR /etc", &["755 1000:100 w", "755 1000:100 w/x", "755 0:0 etc"]),
    // Links at the end of a target are followed, also where nothing is.
    ("RUN ln -s /etc/passwd /l\nCOPY --chmod=600 plain /l", &["777 0:0 l", "600 0:0 etc/passwd"]),
    ("RUN ln -s new/file /l\nCOPY plain /l", &["777 0:0 l", "755 0:0 new", "644 0:0 new/file"]),
    ("RUN ln -s /etc /l\nCOPY plain d/one /l", &["777 0:0 l", "644 0:0 etc/plain", "644 0:0 etc/one"]),
    ("RUN ln -s /nowhere /etc/plain\nCOPY plain /etc/", &["644 0:0 etc/plain"]),
    // Patterns may match nothing, and need no slash where the directory is there.
    ("COPY plain nope* [z]* /y/", &["755 0:0 y", "644 0:0 y/plain"]),
    ("COPY *nope* /y/", &["755 0:0 etc"]),
    ("COPY pl?in d/one /etc", &["644 0:0 etc/plain", "644 0:0 etc/one"]),
    ("ARG T=/q/\nCOPY plain $T\nCOPY plain \"/r/\"", &["755 0:0 q", "644 0:0 q/plain", "644 0:0 r/plain"]),
    ("COPY --exclude=sub --exclude=in* d /z", &["644 0:0 z/one", "644 0:0 z/same"]),
    (
        "COPY --parents d/sub/two d/./o* /z/",
        &["755 0:0 z/d", "700 0:0 z/d/sub", "644 0:0 z/d/sub/two", "644 0:0 z/one"],
    ),
    // A linked copy is made as if nothing were there, so not through a link.
    ("RUN ln -s /etc /l\nCOPY --link plain /l/x", &["755 0:0 l", "644 0:0 l/x", "644 0:0 etc/passwd"]),
    ("COPY <<E /x/\nE", &["755 0:0 x", "644 0:0 x/E"]),
    ("COPY --chown=alice:extra --chmod=4711 plain /x", &["4711 1000:200 x"]),
    ("COPY --chown=7:users d/sub /x", &["755 7:100 x", "644 7:100 x/two"]),
    ("COPY <<a <<b /x/\n1\na\n2\nb", &["755 0:0 x", "644 0:0 x/a", "644 0:0 x/b"]),
    ("WORKDIR /deep/er\nCOPY plain .", &["755 0:0 deep", "755 0:0 deep/er", "644 0:0 deep/er/plain"]),
    // As a distribution has it: a link that leads to the directory.
    ("RUN ln -s bin /usr\nCOPY tree/bin /usr/", &["644 0:0 bin/tool", "777 0:0 usr"]),
    ("RUN mkdir -p /u/bin && ln -s u/bin /b2\nCOPY tree /u", &["644 0:0 u/bin/tool"]),
    (
        "ADD plain.tar /x",
        &["755 0:0 x", "644 5:6 x/one", "700 5:6 x/sub", "644 5:6 x/sub/three.log", "644 5:6 x/sub/two"],
    ),
    ("ADD --chown=1:2 zipped.tgz /x/", &["755 1:2 x", "644 1:2 x/one", "700 1:2 x/sub"]),
    ("ADD --chmod=777 plain.tar /x/", &["755 0:0 x", "644 5:6 x/one", "700 5:6 x/sub"]),
    ("ADD packed.tar.xz packed.tar.bz2 /x/", &["644 5:6 x/one", "700 5:6 x/sub"]),
    ("ADD --unpack=false packed.tar.xz /x/", &["644 0:0 x/packed.tar.xz"]),
    ("COPY plain.tar /x/", &["644 0:0 x/plain.tar"]),
];

#[test]
fn every_form_on_every_strategy() {
    let mut agreed: BTreeMap<&str, (String, Option<DiffId>)> = BTreeMap::new();
    on_each(|bench| {
        fill(bench);
        for &(instructions, expected) in CASES {
            let (built, _) = bench.build("it", &format!("FROM base\n{instructions}\n"));
            let tree = bench.tree("it");
            let lines: Vec<String> = tree
                .iter()
                .map(|named| {
                    let meta = &named.inode.meta;
                    format!("{:o} {}:{} {}", meta.mode, meta.uid, meta.gid, named.path.display())
                })
                .collect();
            for line in expected {
                assert!(
                    lines.iter().any(|known| known == line),
                    "{}: {instructions}: {line}: {lines:#?}",
                    bench.strategy
                );
            }
            // Steps that run commands have the time of the run in what they make.
            if !instructions.contains("RUN") {
                let layer = built.layers.last().copied();
                let (first, layers) = agreed.entry(instructions).or_insert_with(|| (bench.strategy.to_string(), layer));
                assert_eq!(layer, *layers, "{instructions}: {first} and {} differ", bench.strategy);
            }
        }
        let tree = {
            bench.build("links", "FROM base\nCOPY d /z\n");
            bench.tree("links")
        };
        assert_eq!(tree.get("z/same").map(|named| named.names.len()), Some(2), "hard links stay linked");
        bench.build("plain", "FROM base\nCOPY plain /x\n");
        assert!(bench.tree("plain").get("x").is_some_and(|named| named.inode.meta.xattrs.is_empty()));
        assert_eq!(tree.get("z/one").map(|named| named.inode.meta.mtime.seconds), Some(1_000_000_000));
        assert!(tree.get("z/sub/three.log").is_none(), "left out by .dockerignore");
    });
}

#[test]
fn from_stages_and_images() {
    on_each(|bench| {
        fill(bench);
        bench.build("other", "FROM scratch\nCOPY --chown=3:4 d /from\n");
        let dockerfile = "FROM base AS one\nRUN mkdir /r && echo 1 > /r/f && chown -R 8:9 /r && ln -s /r /abs\n\
                          FROM base\nCOPY --from=one /abs/f /stage\nCOPY --from=0 /r /dir\n\
                          COPY --from=other /from/one /image\nCOPY --from=other --chown=0 /from/on? /owned\n";
        bench.build("it", dockerfile);
        let tree = bench.tree("it");
        let owner = |path: &str| tree.get(path).map(|named| (named.inode.meta.uid, named.inode.meta.gid));
        for (path, expected) in
            [("stage", (8, 9)), ("dir", (0, 0)), ("dir/f", (8, 9)), ("image", (3, 4)), ("owned", (0, 0))]
        {
            assert_eq!(owner(path), Some(expected), "{}: {path}", bench.strategy);
        }
    });
}

#[test]
fn what_cannot_be_copied() {
    let Some(bench) = Bench::overlay() else { return };
    fill(&bench);
    symlink("/etc/passwd", bench.context().join("out")).expect("link");
    for (instruction, kind, what) in [
        ("COPY nope /x", ErrorKind::NotFound, "\"nope\" is not there"),
        ("COPY d/sub/three.log /x", ErrorKind::NotFound, ".dockerignore"),
        ("COPY out /x", ErrorKind::InvalidArgument, "leads out of the build context"),
        ("COPY ../store /x", ErrorKind::InvalidArgument, "leads out of the build context"),
        ("COPY plain /etc/passwd/", ErrorKind::FailedPrecondition, "/etc/passwd is there and no directory"),
        ("COPY plain /etc/passwd/x", ErrorKind::FailedPrecondition, "/etc/passwd is there and no directory"),
        ("COPY --chown=eve plain /x", ErrorKind::NotFound, "no user \"eve\""),
        ("COPY --from=base /nope /x", ErrorKind::NotFound, "\"/nope\" is not there"),
        ("COPY plain d/one /x", ErrorKind::FailedPrecondition, "/x has to end with a slash"),
        ("COPY plain /etc/plain/\nCOPY plain /etc", ErrorKind::FailedPrecondition, "/etc/plain is a directory"),
        ("COPY d /d\nCOPY plain /e/sub\nCOPY d /e", ErrorKind::FailedPrecondition, "/e/sub is there and no directory"),
    ] {
        let dockerfile = format!("FROM base\n{instruction}\n");
        let error = bench.build_with("x", &dockerfile, &Wish::default(), &Heard::default()).expect_err(instruction);
        let message = error.chain();
        assert_eq!(error.kind(), kind, "{instruction}: {message}");
        assert!(message.starts_with("Dockerfile:") && message.contains(what), "{instruction}: {message}");
        bench.assert_clean();
    }
}

/// A target directory keeps its own extended attributes and time.
#[test]
fn a_directory_gives_only_what_it_holds() {
    on_each(|bench| {
        let dir = bench.context().join("own");
        let mut layers = Vec::new();
        for (mode, seconds) in [(0o700, 1_000_000_000), (0o2770, 1_100_000_000)] {
            bench.write("own/file", "x");
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).expect("chmod");
            bench.touch("own", seconds);
            let dockerfile = "FROM base AS one\nRUN mkdir -m 700 /s && echo > /s/f && touch -d @1000000000 /s/f\nFROM base\n\
                              COPY own /one\nCOPY own/ /two/deep\nCOPY --from=one /s /three\n";
            let wish = Wish { no_cache: true, ..Wish::default() };
            let built = bench.build_with("it", dockerfile, &wish, &Heard::default()).expect("build");
            layers.push(built.layers);
            let tree = bench.tree("it");
            for path in ["one", "two", "two/deep", "three"] {
                let meta = &tree.get(path).expect(path).inode.meta;
                assert_eq!((meta.mode, meta.uid, meta.mtime.seconds), (0o755, 0, 0), "{}: {path}", bench.strategy);
            }
        }
        assert_eq!(layers[0], layers[1], "{}", bench.strategy);
    });
}

/// The cache knows a link from a copy.
#[test]
fn a_link_that_becomes_a_copy_counts() {
    let Some(bench) = Bench::overlay() else { return };
    bench.write("l/a", "same");
    fs::hard_link(bench.context().join("l/a"), bench.context().join("l/b")).expect("link");
    bench.build("linked", "FROM base\nCOPY l /l\n");
    fs::remove_file(bench.context().join("l/b")).expect("remove");
    bench.write("l/b", "same");
    bench.build("apart", "FROM base\nCOPY l /l\n");
    let names = |image: &str| bench.tree(image).get("l/a").map(|named| named.names.len());
    assert_eq!((names("linked"), names("apart")), (Some(2), Some(1)));
}

/// Pipes, sockets and devices of a context, watched for somebody who opens one.
fn special_files(bench: &Bench) -> OwnedFd {
    let dir = bench.context().join("special");
    fs::create_dir(&dir).expect("mkdir");
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, dir.join(name), kind, Mode::from_raw_mode(0o640), device).expect("mknod");
    };
    node("pipe", FileType::Fifo, 0);
    node("zero", FileType::CharacterDevice, rustix::fs::makedev(1, 5));
    node("block", FileType::BlockDevice, rustix::fs::makedev(7, 200));
    node("socket", FileType::Socket, 0);
    fs::write(dir.join("plain"), "x").expect("write");
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).expect("watch");
    for name in ["pipe", "zero", "block", "socket"] {
        inotify::add_watch(&watch, dir.join(name), inotify::WatchFlags::OPEN).expect("watch");
    }
    watch
}

/// A pipe without a writer would hang the build, and an open of a device can do things. The build runs in a thread, so
/// that one that hangs fails.
#[test]
fn special_files_are_copied_and_not_opened() {
    on_each(|bench| {
        let watch = special_files(bench);
        let dockerfile = "FROM scratch\nCOPY special /dir/\nADD special/pipe special/zero special/block /added/\n\
                          COPY special/socket special/plain /sockets/\n";
        let (built, again) = thread::scope(|scope| {
            let (send, receive) = mpsc::channel();
            scope.spawn(move || drop(send.send([(); 2].map(|()| bench.build("special", dockerfile)))));
            let [(first, _), (_, again)] = receive.recv_timeout(Duration::from_secs(60)).expect("it hangs");
            (first, again)
        });
        assert_eq!(built.layers.len(), 3, "{}", bench.strategy);
        assert!(again.layers().iter().all(|(_, _, cached)| *cached), "the same nodes are the same sources");
        let tree = bench.tree("special");
        let node = |path: &str| tree.get(path).map(|named| (named.inode.meta.node.clone(), named.inode.meta.mode));
        for dir in ["dir", "added"] {
            assert_eq!(node(&format!("{dir}/pipe")), Some((Node::Fifo, 0o640)), "{}", bench.strategy);
            let zero = Device { major: 1, minor: 5 };
            assert_eq!(node(&format!("{dir}/zero")), Some((Node::Char(zero), 0o640)), "{}", bench.strategy);
            let block = Device { major: 7, minor: 200 };
            assert_eq!(node(&format!("{dir}/block")), Some((Node::Block(block), 0o640)), "{}", bench.strategy);
        }
        assert_eq!((node("dir/socket"), node("sockets/socket")), (None, None), "a layer holds no socket");
        assert!(node("sockets/plain").is_some());
        let seen = rustix::io::read(&watch, &mut [0; 4096]);
        assert_eq!(seen, Err(rustix::io::Errno::AGAIN), "{}: something was opened", bench.strategy);
    });
}

/// The dictionary of an archive is memory of the reader: the format allows 4 GiB.
#[test]
fn an_archive_that_needs_too_much_memory_is_refused() {
    let Some(bench) = Bench::overlay() else { return };
    bench.write("plain", "x");
    let context = bench.context();
    let archive = |name: &str, dictionary: &str| {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&context).arg("-cf").arg(context.join("x.tar")).arg("plain");
        assert!(tar.status().expect("run tar").success());
        let mut xz = Command::new("xz");
        xz.args(["--format=xz", &format!("--lzma2=dict={dictionary}"), "-c"]).arg(context.join("x.tar"));
        fs::write(context.join(name), xz.output().expect("run xz").stdout).expect("write");
    };
    archive("good.tar.xz", "64MiB");
    archive("large.tar.xz", "1GiB");
    bench.build("good", "FROM base\nADD good.tar.xz /x/\n");
    let refused = bench.build_with("large", "FROM base\nADD large.tar.xz /x/\n", &Wish::default(), &Heard::default());
    let error = refused.expect_err("a dictionary of 1 GiB");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.chain().contains("more than 256 MiB of memory"), "{}", error.chain());
    bench.build("copied", "FROM base\nCOPY large.tar.xz /x/\n");
}
