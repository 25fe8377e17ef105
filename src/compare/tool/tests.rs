//! Tools that are composed of standard programs.

use super::*;
use crate::compare::workload::{IMPORT, LIFE};
use crate::compare::{Plan, Turn, run};
use crate::mount::scratch::{FsType, Scratch};
use crate::testing;

const TOOL: Tool = Tool {
    name: "shell tools",
    kind: "copy",
    role: Role::Peer,
    lacks: "everything",
    programs: &[("mount", "mount"), ("cp", "coreutils")],
    variables: &[],
    files: &[("settings", "in {dir}\n")],
    daemon: None,
    import: &["cp {archive} {dir}/{name}"],
    forget: &["rm {dir}/{name}"],
    life: Some(LifeCommands {
        base: &["mkdir {dir}/image {dir}/image/a"],
        prepare: &["cp -a {dir}/image {dir}/{key}"],
        mount: &["mount --bind {dir}/{key} {target}"],
        tree: TreeLocation::Target,
        unmount: &["umount {target}"],
        commit: &[],
        remove: &["rm -r {dir}/{key}"],
        free: &[],
        end: &["rm -r {dir}/image"],
    }),
};

/// A directory for a tool, and an image without files.
struct Bench {
    scratch: Scratch,
    archive: Archive,
    image: Image,
}

impl Bench {
    fn new() -> Option<Self> {
        let scratch = testing::scratch(FsType::Tmpfs)?;
        for name in ["tool", "target"] {
            fs::create_dir(scratch.path().join(name)).expect("mkdir");
        }
        let file = scratch.path().join("archive");
        fs::write(&file, "an image").expect("write");
        let none = PathBuf::new;
        let archive =
            Archive { layout: none(), file, layer: none(), name: "i".into(), id: "1".into(), chain: "2".into() };
        Some(Self { scratch, archive, image: Image::new(0, 0, 1) })
    }

    fn subject(&self, tool: Tool) -> Result<ToolSubject<'_>> {
        let [dir, target] = ["tool", "target"].map(|name| self.scratch.path().join(name));
        let (archive, image, strata) = (&self.archive, &self.image, Path::new("strata"));
        ToolSubject::new(
            tool,
            ToolSetting { fs: "tmpfs", measured_fs: None, dir: &dir, target: &target, strata, archive, image },
        )
    }
}

/// Runs `workload` with two counted rounds, and returns each row with the name of its step.
fn rows(subject: &ToolSubject<'_>, workload: Workload) -> Vec<(&'static str, crate::compare::Row)> {
    let mut go_on = |_: Turn<'_>| std::ops::ControlFlow::Continue(());
    let measured = run(&[subject], &[workload], Plan { samples: 2, end: None }, &mut go_on);
    let steps = measured.into_iter().flat_map(|measured| measured.steps);
    steps.flat_map(|step| step.rows.into_iter().map(move |row| (step.step.name, row))).collect()
}

#[test]
fn a_tool_does_what_it_can_and_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    let subject = bench.subject(TOOL).expect("a subject");
    let before = fs::read_dir(&subject.dir).expect("read").count();
    let settings = fs::read_to_string(subject.dir.join("settings")).expect("settings");
    assert_eq!(settings, format!("in {}\n", subject.dir.display()));
    let found: Vec<_> = [IMPORT, LIFE].into_iter().flat_map(|workload| rows(&subject, workload)).collect();
    let steps: Vec<_> = found.iter().map(|(step, _)| *step).collect();
    let expected = ["import", "prepare", "mount", "unmount", "remove"].map(|step| format!("{step} (command)"));
    assert_eq!(steps, expected, "it commits nothing");
    for (step, row) in &found {
        assert_eq!((row.figures.map(|f| f.statistics.samples), &row.failure), (Some(2), &None), "{step}");
        let subject = &row.label.subject;
        assert!(subject.starts_with("shell tools 2.") && subject.ends_with(" on tmpfs"), "{subject}");
        assert_eq!((row.label.lacks.as_str(), row.label.kind.as_str()), ("everything", "copy"));
    }
    assert_eq!(fs::read_dir(&subject.dir).expect("read").count(), before);
}

#[test]
fn what_is_missing_is_named_with_its_package() {
    let Some(bench) = Bench::new() else { return };
    let programs = &[("mount", "mount"), ("no-such-program", "no-such-package")];
    let error = bench.subject(Tool { programs, ..TOOL }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.to_string(), "no-such-program is missing: install the package no-such-package");
}

#[test]
fn a_command_that_fails_is_a_row() {
    let Some(bench) = Bench::new() else { return };
    let subject = bench.subject(Tool { import: &["cp /no/such/file {dir}"], ..TOOL }).expect("a subject");
    let (_, row) = &rows(&subject, IMPORT)[0];
    let failure = row.failure.as_ref().expect("a failure");
    assert!(failure.contains("exit status: 1") && failure.contains("No such file"), "{failure}");
}

#[test]
fn what_runs_meanwhile_ends_with_the_peer() {
    let Some(bench) = Bench::new() else { return };
    let subject = bench.subject(Tool { daemon: Some(["sleep 1000", "true"]), ..TOOL }).expect("a subject");
    let pid = subject._daemon.as_ref().expect("a daemon").0.id();
    let process = PathBuf::from(format!("/proc/{pid}"));
    assert!(process.exists());
    drop(subject);
    assert!(!process.exists());
    let error = bench.subject(Tool { daemon: Some(["cp /no/such/file /", "false"]), ..TOOL }).unwrap_err();
    assert!(error.to_string().contains("does not start") && error.to_string().contains("No such file"), "{error}");
}

#[test]
fn versions() {
    for (said, version) in [
        ("tar (GNU tar) 1.34\nCopyright (C) 2021", Some("1.34")),
        ("mount from util-linux 2.38.1 (libmount 2.38.1: selinux)", Some("2.38.1")),
        ("btrfs-progs v6.2", Some("6.2")),
        ("umoci version 0.4.7+ds-3+b7", Some("0.4.7+ds-3+b7")),
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", Some("1.6.20~ds1")),
        ("no number", None),
    ] {
        assert_eq!(number(said), version, "{said}");
    }
}
