//! Which steps make a layer, and which layer.

use std::fs;

use serde_json::Value;
use strata::ErrorKind;
use strata::backends::{COPY, OVERLAY};
use strata::build::Progress;
use strata::id::Digest;
use strata::mount::scratch::{FsType, Scratch};
use strata::task::Cancel;

use super::{Bench, Heard, Wish, on_each, runtime, support};

/// Steps after which everything is as it was before: container tools make a layer for most of them.
const NO_CHANGE: [&str; 12] = [
    "RUN true",
    "RUN touch /new && rm /new",
    "RUN chmod 644 /data/file",
    "RUN mv /data/file /data/moved && mv /data/moved /data/file",
    "RUN mkdir /data/dir && rmdir /data/dir",
    "RUN : >> /data/file",
    "RUN chown 0:0 /data /data/file",
    "RUN echo x > /dev/shm/x && ls /proc/self /sys > /dev/null && cat /etc/hosts /etc/resolv.conf > /dev/null",
    "RUN --mount=type=tmpfs,target=/tmp/in/memory echo x > /tmp/in/memory/x",
    "WORKDIR /data",
    "COPY file /data/",
    "COPY --chown=root:root <<same /etc/\nthe same\nsame",
];

const BEFORE: &str = "FROM base\nCOPY file /data/\nCOPY --chown=root:root <<same /etc/\nthe same\nsame\n";

#[test]
fn a_step_that_changes_nothing_makes_no_layer() {
    on_each(|bench| {
        bench.write("file", "content");
        bench.build("before", BEFORE);
        let dockerfile = format!("{BEFORE}{}\nRUN echo x > /changed\n", NO_CHANGE.join("\n"));
        let (built, heard) = bench.build("after", &dockerfile);
        let made: Vec<_> = heard.layers().split_off(2);
        let expected = [false; NO_CHANGE.len()].into_iter().chain([true]);
        for ((text, layer, _), expected) in made.iter().zip(expected) {
            assert_eq!(*layer, expected, "{}: {text}", bench.strategy);
        }
        assert_eq!(made.len(), NO_CHANGE.len() + 1);
        // The history says why.
        let config = bench.config("after");
        let history = config["history"].as_array().expect("a history");
        let empty = |entry: &&Value| entry["empty_layer"] == true;
        assert_eq!(history.iter().filter(empty).count(), NO_CHANGE.len());
        assert_eq!(history.len() - NO_CHANGE.len(), built.layers.len());
        let by: Vec<_> = history.iter().filter(empty).filter_map(|entry| entry["created_by"].as_str()).collect();
        assert_eq!(by[..11], NO_CHANGE[..11]);
        // It is remembered.
        let (_, heard) = bench.build("again", &dockerfile);
        assert!(heard.layers().iter().all(|(_, _, cached)| *cached), "{:?}", heard.layers());
    });
}

/// Mount points that strata makes in a bare root are no part of the layer, whatever the container does around them.
#[test]
fn mount_points_are_no_part_of_a_layer() {
    on_each(|bench| {
        let scratch = "FROM scratch\nCOPY busybox /busybox\n";
        let run = |command: &str| format!("{scratch}RUN [\"/busybox\", \"sh\", \"-c\", \"{command}\"]\n");
        let (plain, _) = bench.build("plain", scratch);
        let (same, _) = bench.build("same", &run("exit 0"));
        assert_eq!(same.layers, plain.layers, "{}", bench.strategy);
        bench.build("changed", &run("echo x > /etc/mine"));
        let tree = bench.tree("changed");
        let paths: Vec<_> = tree.iter().map(|named| named.path.display().to_string()).collect();
        assert_eq!(paths, ["", "busybox", "etc", "etc/mine"], "{}", bench.strategy);
        // A directory's time is that of what happened in it.
        let wish = Wish { epoch: Some(5), ..Wish::default() };
        bench.build_with("early", &run("echo x > /etc/mine"), &wish, &Heard::default()).expect("build");
    });
}

#[test]
fn a_link_for_resolv_conf_stays_one() {
    on_each(|bench| {
        fs::create_dir(bench.context().join("etc")).expect("mkdir");
        let link = bench.context().join("etc/resolv.conf");
        std::os::unix::fs::symlink("../run/resolve/stub.conf", link).expect("link");
        let before = "FROM base\nCOPY etc /etc\n";
        let (first, _) = bench.build("linked", before);
        let (second, _) =
            bench.build("used", &format!("{before}RUN test -L /etc/resolv.conf && test -e /run/resolve/stub.conf\n"));
        assert_eq!(first.layers, second.layers, "{}", bench.strategy);
    });
}

#[test]
fn the_same_dockerfile_gives_the_same_layers() {
    let dockerfile = "FROM base\nRUN mkdir -p /a/b && echo x > /a/b/c && ln /a/b/c /a/d && ln -s c /a/b/e\n\
                      COPY busybox /a/new/\nRUN rm /a/d\nWORKDIR /w/x\nRUN date > /dev/null; echo y >> /a/b/c\n";
    let wish = Wish { epoch: Some(1_234_567_890), no_cache: true, ..Wish::default() };
    let mut agreed = None;
    on_each(|bench| {
        bench.touch("busybox", 1_100_000_000);
        // The base too, for a layer writes the directories above its entries.
        bench.build_with("base", super::BASE, &wish, &Heard::default()).expect("build");
        for round in 0..2 {
            let built = bench.build_with("same", dockerfile, &wish, &Heard::default()).expect("build");
            let config = bench.config("same");
            assert_eq!(config["created"], "2009-02-13T23:31:30Z");
            let first = agreed.get_or_insert_with(|| (built.id, built.layers.clone()));
            assert_eq!((built.id, &built.layers), (first.0, &first.1), "{}, round {round}", bench.strategy);
        }
        let latest = bench.tree("same").iter().map(|named| named.inode.meta.mtime.seconds).max();
        assert_eq!(latest, Some(1_234_567_890), "{}", bench.strategy);
    });
}

/// Both runtimes do the same.
#[test]
fn runtimes() {
    let Some(bench) = Bench::overlay() else { return };
    for name in ["crun", "runc"] {
        if runtime(Some(name)).is_none() {
            continue;
        }
        let dockerfile = format!(
            "FROM base\nENV NAME={name}\nUSER alice\nWORKDIR /\nRUN test \"$(id -u):$(id -g):$(id -G)\" = \"1000:100:100 200\" && test \"$HOME\" = /home/alice && test $NAME = {name} && ! touch /bin/x 2>/dev/null && ! touch /etc/hosts 2>/dev/null && test $$ = 1\n\
             USER root\nRUN --network=none test \"$(ls /sys/class/net | tr -d '\\n')\" = lo\nRUN <<EOF\nset -e\necho a > /a\nexec 3< /a\nEOF\nRUN <<EOF\n#!/bin/busybox cat\nscript\nEOF\n"
        );
        let heard = Heard::default();
        let wish = Wish { runtime: Some(name), no_cache: true, ..Wish::default() };
        let built = bench.build_with("it", &dockerfile, &wish, &heard);
        built.unwrap_or_else(|error| panic!("{name}: {}", error.chain()));
        bench.assert_clean();
        assert!(String::from_utf8_lossy(&heard.output.borrow()).contains("script"), "{name}");
    }
}

#[test]
fn a_command_that_fails() {
    let Some(bench) = Bench::overlay() else { return };
    let dockerfile = "FROM base\nRUN echo kept > /kept\nRUN echo out; echo err >&2; echo half > /half; exit 3\n";
    for round in 0..2 {
        let heard = Heard::default();
        let error = bench.build_with("failed", dockerfile, &Wish::default(), &heard).expect_err("it fails");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        let message = error.chain();
        for part in ["Dockerfile:3:1: RUN echo out", "exit status 3", "its output ends: out | err"] {
            assert!(message.contains(part), "{message}");
        }
        bench.assert_clean();
        assert_eq!(bench.store.image("failed").expect_err("no image").kind(), ErrorKind::NotFound);
        assert_eq!(heard.layers(), [("RUN echo kept > /kept".to_owned(), true, round > 0)], "round {round}");
    }
    // The error of a command that cannot be started names the reason.
    let error = bench.build_with("x", "FROM base\nRUN [\"/nope\"]\n", &Wish::default(), &Heard::default());
    let message = error.expect_err("there is no such program").chain();
    assert!(message.contains("the image has no program \"/nope\""), "{message}");
    let error = bench.build_with("x", "FROM base\nUSER eve\nRUN true\n", &Wish::default(), &Heard::default());
    let message = error.expect_err("there is no such user").chain();
    assert!(message.contains("Dockerfile:3:1") && message.contains("no user \"eve\""), "{message}");
    let missing = Wish { runtime: Some("no-such-runtime"), ..Wish::default() };
    let error = bench.build_with("x", "FROM base\nRUN echo new\n", &missing, &Heard::default());
    let message = error.expect_err("there is no such runtime").chain();
    assert!(message.contains("install the package crun or runc"), "{message}");
    bench.assert_clean();
}

#[test]
fn explained() {
    on_each(|bench| {
        let wish = Wish { explain: true, ..Wish::default() };
        let dockerfile = "FROM base\nRUN rm /etc/group; for i in $(seq 20); do echo > /f$i; done\nRUN true\n";
        // A cached step is explained as well.
        for _ in 0..2 {
            let heard = Heard::default();
            bench.build_with("x", dockerfile, &wish, &heard).expect("build");
            let steps = heard.steps.borrow();
            let explained = |step: usize| &steps[step].1.as_ref().expect("done").explained;
            let line = |(letter, path): &(char, std::path::PathBuf)| format!("{letter} {}", path.display());
            let shown: Vec<_> = explained(0).iter().map(line).collect();
            assert_eq!(shown.len(), 10, "{}", bench.strategy);
            assert_eq!(shown[..4], ["M ", "M etc", "D etc/group", "A f1"], "{}", bench.strategy);
            assert_eq!(explained(1).len(), 0, "{}", bench.strategy);
        }
    });
}

/// Stops a build when it comes to a step.
struct Stopper<'a> {
    at: usize,
    cancel: &'a Cancel,
}

impl Progress for Stopper<'_> {
    fn started(&self, number: usize, _total: usize, _stage: &str, _text: &str) {
        if number == self.at {
            self.cancel.request();
        }
    }
}

#[test]
fn stopped_at_any_step() {
    on_each(|bench| {
        bench.write("dir/file", "content");
        let dockerfile = "FROM base AS one\nENV A=1\nCOPY dir /dir\nRUN echo 1 > /made\nWORKDIR /w\n\
                          FROM base\nRUN true\nCOPY --from=one /made /\nADD dir /d\nUSER 1\n";
        let (_, heard) = bench.build("whole", dockerfile);
        for at in 1..=heard.steps.borrow().len() {
            let cancel = Cancel::default();
            let wish = Wish { no_cache: true, cancel: Some(&cancel), ..Wish::default() };
            let stopped = bench.build_with("never", dockerfile, &wish, &Stopper { at, cancel: &cancel });
            let error = stopped.expect_err("it was stopped");
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{}, step {at}: {}", bench.strategy, error.chain());
            bench.assert_clean();
            assert_eq!(bench.store.image("never").expect_err("no image").kind(), ErrorKind::NotFound);
        }
        let (_, heard) = bench.build("whole", dockerfile);
        assert!(heard.layers().iter().all(|(_, _, cached)| *cached), "{}: nothing was lost", bench.strategy);
    });
}

#[test]
fn mounts_of_a_command() {
    let Some(bench) = Bench::overlay() else { return };
    bench.write("data/file", "from the context");
    let dockerfile = |use_of_cache: &str| {
        format!(
            "FROM base\nWORKDIR /w\nRUN --mount=type=bind,source=data,target=/in/data --mount=type=cache,id=c,target=cache \
             cp /in/data/file /copied && ! touch /in/data/x 2>/dev/null && {use_of_cache}\n"
        )
    };
    let count = |word: &str| format!("echo {word} >> cache/lines && wc -l < cache/lines > /count");
    let lines = || {
        let built = bench.tree("it");
        assert!(built.get("w/cache").is_none() && built.get("in").is_none(), "mount points are left");
        built.get("count").and_then(|named| named.inode.content).expect("counted")
    };
    let number = |number: u32| Digest::of(format!("{number}\n").as_bytes());
    bench.build("it", &dockerfile(&count("a")));
    assert_eq!(lines(), number(1));
    bench.build("it", &dockerfile(&count("b")));
    assert_eq!(lines(), number(2), "by another step");
    strata::build::free_caches(&bench.store).expect("free");
    bench.build("it", &dockerfile(&count("c")));
    assert_eq!(lines(), number(1), "after gc");
    let heard = Heard::default();
    bench.build_with("it", &dockerfile(&count("c")), &Wish::default(), &heard).expect("build");
    assert!(heard.layers()[1].2, "it is known");
    bench.write("data/file", "something else");
    let heard = Heard::default();
    bench.build_with("it", &dockerfile(&count("c")), &Wish::default(), &heard).expect("build");
    assert!(!heard.layers()[1].2, "what is mounted counts");
}

/// By a command, and by a copy of what the context has. Not on btrfs, where what was removed takes room for a while
/// longer.
#[test]
fn a_full_disk() {
    for (strategy, fs, megabytes) in [(OVERLAY, FsType::Ext4, 64_usize), (COPY, FsType::Xfs, 320)] {
        let scratch = support::gate(fs.as_str(), Scratch::new(fs, (megabytes as u64) << 20));
        let Some(bench) = scratch.and_then(|scratch| Bench::on(strategy, scratch)) else { continue };
        // With this and two copies of it the disk is full.
        fs::write(bench.context().join("large"), vec![b'x'; (megabytes << 20) * 2 / 5]).expect("write");
        for fills in ["RUN dd if=/dev/zero of=/big bs=1M count=400", "COPY large /1\nCOPY large /2"] {
            let dockerfile = format!("FROM base\nRUN echo kept > /kept\n{fills}\n");
            let error = bench.build_with("x", &dockerfile, &Wish::default(), &Heard::default());
            let message = error.expect_err("there is no room").chain();
            let step = format!(": {}", &fills[..4]);
            assert!(message.starts_with("Dockerfile:") && message.contains(&step), "{strategy}: {message}");
            assert!(message.contains("No space left on device"), "{strategy}: {message}");
            bench.assert_clean();
            bench.store.gc().expect("gc");
            let (_, heard) = bench.build("x", "FROM base\nRUN echo kept > /kept\n");
            assert!(heard.layers()[0].1, "{strategy}: there is room again");
        }
    }
}
