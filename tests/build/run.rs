//! Containers.

use std::fs;
use std::thread;
use strata::task::Cancel;

use nix::sys::signal::Signal;
use strata::build::{RunOptions, commit_image, start};
use strata::container::{Control, Exit, Network, Tmpfs, Volume};
use strata::mount::Access;
use strata::snapshotter::Snapshotter;
use strata::tree::text;
use strata::{ErrorKind, Result};

use super::{Bench, Wish, on_each, runtime};

/// Nobody sends a signal.
pub(crate) struct Quiet;

impl Control for Quiet {
    fn signal(&mut self) -> Option<Signal> {
        None
    }

    fn output(&mut self, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// A container of `base` that runs `script`.
fn script(script: &str) -> RunOptions {
    shell("base", &["sh", "-c", script])
}

/// A container of `image` that runs `command`.
pub(crate) fn shell(image: &str, command: &[&str]) -> RunOptions {
    RunOptions {
        image: image.to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        name: None,
        remove: true,
        env: Vec::new(),
        volumes: Vec::new(),
        tmpfs: Vec::new(),
        read_only: false,
        entrypoint: None,
        dir: None,
        user: None,
        stdin: false,
        terminal: false,
        no_new_privs: false,
        network: Network::None,
        pids_max: Some(200),
    }
}

fn status(bench: &Bench, options: &RunOptions) -> u8 {
    let ended = start(&bench.store, &runtime(None).expect("a runtime"), options, &mut Quiet);
    let Exit(status) = ended.unwrap_or_else(|error| panic!("{}: {}", bench.strategy, error.chain())).exit;
    status
}

#[test]
fn a_container_changes_its_own_top() {
    on_each(|bench| {
        let digest = || text::digest(&bench.tree("base"));
        let before = digest();
        let options = RunOptions {
            name: Some("work".to_owned()),
            remove: false,
            ..script("echo x > /x; rm /etc/group; mkdir /tmp; exit 7")
        };
        assert_eq!(status(bench, &options), 7, "{}", bench.strategy);
        let mut changed = Vec::new();
        bench
            .store
            .changes("work", None, &mut |change: &strata::changeset::Change, _: &mut dyn std::io::Read| {
                changed.push(change.path().display().to_string());
                Ok(())
            })
            .expect("changes");
        assert_eq!(changed, ["", "etc", "etc/group", "tmp", "x"], "{}", bench.strategy);
        let image = commit_image(&bench.store, "child", "work", None, &Cancel::default()).expect("commit");
        let parent = bench.config("base");
        assert_eq!(image.layers.len(), parent["rootfs"]["diff_ids"].as_array().expect("layers").len() + 1);
        let history = bench.config("child")["history"].as_array().expect("a history").clone();
        assert_eq!(history.len(), parent["history"].as_array().expect("a history").len() + 1);
        let child = RunOptions { image: "child".to_owned(), ..script("test -f /x -a ! -e /etc/group") };
        assert_eq!(status(bench, &child), 0, "{}", bench.strategy);
        assert_eq!(digest(), before, "the image is what it was");
        bench.assert_clean();
        // Nothing changed: no layer, but a step of the history.
        let options = RunOptions { name: Some("idle".to_owned()), remove: false, ..script("true") };
        assert_eq!(status(bench, &options), 0);
        let same = commit_image(&bench.store, "same", "idle", None, &Cancel::default()).expect("commit");
        assert_eq!(same.top, bench.store.image("base").expect("base").top);
        assert_eq!(bench.config("same")["history"][3]["empty_layer"], true);
        bench.assert_clean();
    });
}

/// Each waits for the other's file, which never comes.
#[test]
fn two_at_once_do_not_see_each_other() {
    on_each(|bench| {
        let talk = |own: &str, other: &str| {
            script(&format!(
                "echo > /mnt.{own}; echo > /both/{own}; for i in 1 2 3 4 5 6 7 8 9; do test -e /both/{other} && break; sleep 0.2; done; \
                 test -e /both/{other} -a ! -e /mnt.{other}"
            ))
        };
        let both = bench.scratch.path().join("both");
        fs::create_dir(&both).expect("mkdir");
        let volume = Volume { source: both, target: "/both".to_owned(), access: Access::ReadWrite };
        thread::scope(|scope| {
            for (own, other) in [("a", "b"), ("b", "a")] {
                let options = RunOptions { volumes: vec![volume.clone()], ..talk(own, other) };
                scope.spawn(move || assert_eq!(status(bench, &options), 0, "{}: {own}", bench.strategy));
            }
        });
        bench.assert_clean();
    });
}

#[test]
fn what_a_container_is_given() {
    let Some(bench) = Bench::overlay() else { return };
    bench.build(
        "config",
        "FROM base\nENV A=1 B=2\nWORKDIR /work\nUSER alice\nENTRYPOINT [\"sh\", \"-c\"]\nCMD [\"exit 5\"]\n",
    );
    let plain = RunOptions { image: "config".to_owned(), command: Vec::new(), ..script("") };
    assert_eq!(status(&bench, &plain), 5, "the image's command");
    let source = bench.context().join("busybox");
    let check = "test \"$A $B $PWD\" = \"1 3 /work/in\" && test \"$(id -u) $(id -g)\" = \"7 100\" && test -s /new/file \
                 && ! echo x 2>/dev/null > /new/file";
    let options = RunOptions {
        image: "config".to_owned(),
        command: vec![check.to_owned()],
        env: vec!["B=3".to_owned()],
        dir: Some("in".to_owned()),
        user: Some("7:users".to_owned()),
        volumes: vec![Volume { source, target: "/new/file".to_owned(), access: Access::ReadOnly }],
        ..plain
    };
    assert_eq!(status(&bench, &options), 0);
    // The mount points of this container are not left.
    let options = RunOptions { name: Some("kept".to_owned()), remove: false, dir: None, ..options };
    let command = vec!["true".to_owned()];
    assert_eq!(status(&bench, &RunOptions { command, ..options }), 0);
    bench
        .store
        .changes("kept", None, &mut |change: &strata::changeset::Change, _: &mut dyn std::io::Read| {
            panic!("{change:?}");
        })
        .expect("no changes");
}

#[test]
fn what_is_in_the_way() {
    let Some(bench) = Bench::overlay() else { return };
    bench.build("entry", "FROM base\nENTRYPOINT [\"sh\", \"-c\", \"exit 3\"]\nCMD [\"x\"]\n");
    let tmpfs = Tmpfs { target: "/t".to_owned(), size_bytes: Some(1 << 20), access: Access::ReadWrite };
    let check = "! echo 2>/dev/null > /x && echo > /t/x && ! head -c 2000000 /dev/zero 2>/dev/null > /t/y";
    let options = RunOptions { read_only: true, tmpfs: vec![tmpfs], ..script(check) };
    assert_eq!(status(&bench, &options), 0);
    let with = |entrypoint: Option<&[&str]>, command: &[&str]| {
        let entrypoint = entrypoint.map(|words| words.iter().map(|word| (*word).to_owned()).collect());
        status(&bench, &RunOptions { entrypoint, ..shell("entry", command) })
    };
    assert_eq!(with(None, &[]), 3);
    assert_eq!(with(Some(&["sh"]), &["-c", "exit 4"]), 4);
    assert_eq!(with(Some(&[]), &["sh", "-c", "exit 5"]), 5);
    bench.assert_clean();
}

#[test]
fn what_cannot_run() {
    let Some(bench) = Bench::overlay() else { return };
    let fails = |options: RunOptions, kind, what: &str| {
        let error = start(&bench.store, &runtime(None).expect("a runtime"), &options, &mut Quiet).expect_err(what);
        assert!(error.kind() == kind && error.chain().contains(what), "{what}: {}", error.chain());
        bench.assert_clean();
    };
    fails(RunOptions { image: "nope".to_owned(), ..script("") }, ErrorKind::NotFound, "no image");
    fails(RunOptions { user: Some("eve".to_owned()), ..script("") }, ErrorKind::NotFound, "no user");
    fails(RunOptions { command: Vec::new(), ..script("") }, ErrorKind::InvalidArgument, "no command");
    fails(RunOptions { command: vec!["nope".to_owned()], ..script("") }, ErrorKind::NotFound, "no program \"nope\"");
    let volume = |source: &str, target: &str| {
        let volume = Volume { source: source.into(), target: target.to_owned(), access: Access::ReadOnly };
        RunOptions { volumes: vec![volume], ..script("") }
    };
    fails(volume("/no/such", "/x"), ErrorKind::NotFound, "/no/such");
    fails(volume("/tmp", "/../x"), ErrorKind::InvalidArgument, "no place to mount");
    fails(volume("/tmp", "/"), ErrorKind::InvalidArgument, "no place to mount");
}

/// A runtime in C ends a text at a NUL byte: `rm -r /x\0/y` would be another command.
#[test]
fn a_nul_byte_is_refused() {
    let Some(bench) = Bench::overlay() else { return };
    let volume = Volume { source: bench.context(), target: "/v\0w".to_owned(), access: Access::ReadOnly };
    let tmpfs = Tmpfs { target: "/t\0u".to_owned(), size_bytes: None, access: Access::ReadWrite };
    let cases: [(&str, RunOptions); 7] = [
        ("argument of the command", shell("base", &["echo", "a\0b"])),
        ("argument of the command", RunOptions { entrypoint: Some(vec!["a\0b".to_owned()]), ..script("true") }),
        ("variable", RunOptions { env: vec!["A=a\0b".to_owned()], ..script("true") }),
        ("working directory", RunOptions { dir: Some("/a\0b".to_owned()), ..script("true") }),
        ("user", RunOptions { user: Some("root\0x".to_owned()), ..script("true") }),
        ("mount point", RunOptions { volumes: vec![volume], ..script("true") }),
        ("mount point", RunOptions { tmpfs: vec![tmpfs], ..script("true") }),
    ];
    for (what, mut options) in cases {
        for remove in [true, false] {
            options.name = Some("work".to_owned());
            options.remove = remove;
            let ended = start(&bench.store, &runtime(None).expect("a runtime"), &options, &mut Quiet);
            let error = ended.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}: {}", error.chain());
            assert!(error.chain().contains(&format!("a {what} holds a NUL byte")), "{}", error.chain());
            bench.assert_clean();
        }
    }
    for (name, value) in [("A", "a\0b"), ("a\0b", "A"), ("unused", "\0")] {
        let wish = Wish { arguments: &[(name, value)], ..Wish::default() };
        let built = bench.build_with("x", "FROM base\nARG A\nLABEL l=$A\n", &wish, &());
        let error = built.expect_err("a NUL byte");
        assert_eq!(error.to_string(), format!("the build argument {name:?} holds a NUL byte"));
    }
}
