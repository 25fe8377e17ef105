//! `build` from outside: what it makes of bad input, what it shows on a terminal, what a step that is known costs.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use strata::mount::scratch::FsType;

use super::containers::{containers, containers_on};
use super::{Bench, support, text};

impl Bench {
    /// Builds a Dockerfile that must be refused, and answers the error line. The attempt must leave nothing.
    #[track_caller]
    fn refuses(&self, dockerfile: &str, options: &[&str], kind: &str) -> String {
        let before = (self.ok(&["images"]), self.names(&[]));
        let arguments = self.dockerfile(dockerfile);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["-q", "-t", "never"]).collect();
        let said = self.fails(&[&arguments[..], options].concat(), kind);
        assert_eq!((self.ok(&["images"]), self.names(&[])), before, "{dockerfile}");
        said
    }
}

/// Each is found before the command that stands before it runs.
#[test]
fn bad_dockerfiles() {
    let Some(bench) = containers() else { return };
    symlink("/etc/passwd", bench.path("context/out")).expect("link");
    for (instruction, kind, what) in [
        ("FOO x", "invalid_argument", "3:1: unknown instruction"),
        ("RUN --nope=1 x", "unsupported", "3:5: RUN with --nope is not supported"),
        ("COPY --nope busybox /x", "unsupported", "3:6: COPY with --nope is not supported"),
        ("COPY --from=nope /x /", "not_found", "3:1: there is no image or earlier stage \"nope\": strata images"),
        ("FROM nope", "not_found", "3:1: there is no image or earlier stage \"nope\": strata images"),
        ("COPY nope /", "not_found", "3:6: \"nope\" is not there"),
        ("COPY ../store /", "invalid_argument", "3:6: \"../store\" leads out of the build context"),
        ("COPY out /", "invalid_argument", "3:6: \"out\" leads out of the build context"),
        ("ADD https://example.org/x.git /", "unsupported", "3:5: ADD of a repository is not supported"),
        (
            "RUN --mount=type=secret,id=s,required x",
            "invalid_argument",
            "3:5: --mount=type=secret: the secret s is not given",
        ),
        ("RUN --mount=type=ssh,required x", "invalid_argument", "3:5: --mount=type=ssh: no SSH agent default is given"),
        ("RUN --mount=type=tmpfs,target=/c,mode=1 x", "invalid_argument", "3:5: --mount=type=tmpfs has no \"mode\""),
        ("RUN --security=insecure x", "unsupported", "3:5: --security=insecure is not supported"),
        ("ONBUILD FROM x", "invalid_argument", "3:9: ONBUILD takes no ONBUILD"),
    ] {
        let said = bench.refuses(&format!("FROM base\nRUN echo before > /before\n{instruction}\n"), &[], kind);
        assert!(said.contains("Dockerfile:3:") && said.contains(what), "{instruction}: {said}");
    }
    let said = bench.refuses("FROM base\n", &["--target", "nope"], "not_found");
    assert!(said.contains("the Dockerfile has no stage \"nope\": none has a name"), "{said}");
    for name in ["Upper", "a b", "a:b:c", ""] {
        let arguments = bench.dockerfile("FROM base\nRUN echo before > /before\n");
        let build: Vec<&str> = arguments.iter().map(String::as_str).chain(["-q", "-t", name]).collect();
        assert!(bench.fails(&build, "invalid_argument").contains("is no name for an image"));
        assert!(bench.fails(&["commit-image", name, "x"], "invalid_argument").contains("is no name for an image"));
        let context = bench.path("context");
        let import = ["import", &context.to_string_lossy(), "--name", name];
        assert!(bench.fails(&import, "invalid_argument").contains("is no name for an image"));
    }
}

#[test]
fn commands_that_fail() {
    let Some(bench) = containers() else { return };
    for (dockerfile, kind, what) in [
        (
            "FROM base\nRUN echo a; echo b >&2; exit 9\n",
            "failed_precondition",
            "2:1: RUN echo a; echo b >&2; exit 9: exit status 9: its output ends: a | b",
        ),
        ("FROM base\nRUN [\"/nope\"]\n", "not_found", "2:1: RUN [\"/nope\"]: the image has no program \"/nope\""),
        ("FROM base\nUSER eve\nRUN true\n", "not_found", "3:1: RUN true: the image has no user \"eve\""),
    ] {
        let said = bench.refuses(dockerfile, &[], kind);
        assert!(said.contains(what), "{said}");
    }
    // Nobody hears it twice.
    let output = bench.build("never", "FROM base\nRUN [\"/nope\"]\n", &[]);
    assert_eq!(text(&output.stderr).lines().count(), 2, "the step, and the error: {output:?}");
    for name in ["nope", "/nope", "/bin", "./nope"] {
        let output = bench.run(&["run", "base", name]);
        let said = text(&output.stderr);
        let is_one_line = said.starts_with("strata: the image has no program") && said.matches('\n').count() == 1;
        assert!(output.status.code() == Some(127) && is_one_line, "{name}: {said}");
    }

    let script = "FROM base\nCOPY --chmod=755 <<EOF /script\n#!/no/shell -e\nEOF\n";
    assert!(bench.build("scripted", script, &[]).status.success());
    let output = bench.run(&["run", "scripted", "/script"]);
    let line = "strata: the image has no program \"/no/shell\", by which \"/script\" is run\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(127), line));

    let tools = bench.path("tools");
    fs::create_dir(&tools).expect("mkdir");
    symlink("/usr/bin/unshare", tools.join("unshare")).expect("link");
    for arguments in [&["run", "--rm", "base", "true"][..], &["build", "-q", "-t", "never", "-f", "-", "."]] {
        let dockerfile = bench.path("anew");
        fs::write(&dockerfile, "FROM base\nRUN echo something new\n").expect("write");
        let mut command = bench.command(arguments);
        let command = command.current_dir(bench.path("context")).env("PATH", &tools);
        let output = command.stdin(fs::File::open(dockerfile).expect("open")).output().expect("run");
        let said = text(&output.stderr);
        let what = "no OCI runtime is installed (crun, runc or youki): install the package crun or runc";
        let status = if arguments[0] == "run" { 125 } else { 1 };
        assert!(output.status.code() == Some(status) && said.contains(what), "{said}");
    }
    let output = bench.build("other", "FROM --platform=linux/s390x base\n", &[]);
    let said = text(&output.stderr);
    assert!(
        output.status.success() && said.contains("warning: ") && said.contains("its commands may not run"),
        "{said}"
    );
}

/// Secrets of files and of variables, by their ids.
#[test]
fn secrets_of_the_caller() {
    let Some(bench) = containers() else { return };
    let file = bench.path("key");
    fs::write(&file, "of a file").expect("write");
    let dockerfile = "FROM base\nRUN --mount=type=secret,id=f grep 'of a file' /run/secrets/f\n\
                      RUN --mount=type=secret,id=V,env=X test \"$X\" = 'of a variable'\n";
    let arguments = bench.dockerfile(dockerfile);
    let given = format!("id=f,src={}", file.display());
    let build = |options: &[&str]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["-q", "-t", "it"]).collect();
        let mut command = bench.command(&[&arguments[..], options].concat());
        command.env("V", "of a variable").env("W", "of a variable").env_remove("SSH_AUTH_SOCK").output().expect("run")
    };
    for variable in ["id=V", "id=V,env=W", "id=V,type=env", "type=env,id=V,env=W"] {
        let output = build(&["--no-cache", "--secret", &given, "--secret", variable]);
        assert!(output.status.success(), "{variable}: {}", text(&output.stderr));
    }
    for (options, what) in [
        (["--secret", "id=V,env=NOPE"], "the variable NOPE of the secret is not set"),
        (["--secret", "id=f,src=/nope"], "/nope"),
        (["--secret", "src=/nope"], "a secret needs an id"),
        (["--ssh", "default"], "SSH_AUTH_SOCK is not set"),
        (["--ssh", "default=/etc/passwd"], "is no socket"),
    ] {
        let output = build(&options);
        assert!(!output.status.success() && text(&output.stderr).contains(what), "{}", text(&output.stderr));
    }
}

/// On a terminal the step that is under way is shown with its time, until it is done.
#[test]
fn a_terminal_sees_the_step_under_way() {
    let Some(bench) = containers() else { return };
    let arguments = bench.dockerfile("FROM base\nENV A=1\nRUN echo said; sleep 1\n").join(" ");
    let strata = env!("CARGO_BIN_EXE_strata");
    let line = format!("stty cols 100 rows 30; {strata} {arguments} -t shown");
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("STRATA_ROOT", bench.path("store")).env("TERM", "xterm");
    let output = command.output().expect("run script");
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}");
    let step = "[2/2 0] RUN echo said; sleep 1";
    let drawn: Vec<&str> = said.split(['\r', '\n', '\u{1b}']).filter(|part| part.contains(step)).collect();
    assert!(drawn.iter().any(|part| part.trim_end().ends_with('s')), "with its time: {said:?}");
    assert!(drawn.len() > 2, "it is drawn anew: {said:?}");
    for part in ["[1/2 0] ENV A=1", "said", "[2/2] no change, 1."] {
        assert!(said.contains(part), "{part}: {said:?}");
    }
    let last = said.trim_end().rsplit(['\r', '\n']).next().unwrap_or_default();
    assert!(last.contains("shown sha256:"), "nothing is left of what was drawn: {said:?}");
}

/// A cached step is looked up: no snapshot is mounted, no namespace made, no runtime started.
#[test]
fn a_known_step_mounts_nothing() {
    let calls = "trace=mount,umount2,fsopen,fsmount,move_mount,open_tree,mount_setattr,unshare,execve";
    let traced = Command::new("strace").arg("-V").output();
    if !support::require("strace", traced.map(drop).map_err(|error| error.to_string())) {
        return;
    }
    for (backend, fs) in [("copy", FsType::Xfs), ("overlay", FsType::Ext4), ("btrfs", FsType::Btrfs)] {
        let Some(bench) = containers_on(backend, fs) else { continue };
        let dockerfile = "FROM base AS one\nCOPY busybox /x\nRUN echo > /y\nRUN true\nWORKDIR /w\n\
                          FROM base\nCOPY --from=one /y /z\nRUN --mount=type=bind,source=busybox,target=/b true\n";
        let first = bench.build("it", dockerfile, &["-q"]);
        let log = bench.path("log");
        let arguments = bench.dockerfile(dockerfile);
        let plain = bench.command(&arguments.iter().map(String::as_str).chain(["-q", "-t", "it"]).collect::<Vec<_>>());
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "signal=none", "-e", calls, "-o"]).arg(&log);
        command.arg(plain.get_program()).args(plain.get_args()).env("STRATA_ROOT", bench.path("store"));
        let output = command.output().expect("run strace");
        assert_eq!(text(&output.stdout), text(&first.stdout), "{backend}: {output:?}");
        let log = fs::read_to_string(&log).expect("a log");
        // strace shows the calls that it has no name for, whatever its filter says.
        let is_one = |line: &&str| !["+++", "resumed>", " syscall_0x"].iter().any(|other| line.contains(other));
        // The source of a bind is opened when the build is planned. Its mount is copied then, and attached nowhere.
        let is_copy = |line: &&str| line.contains("open_tree(") || line.contains("mount_setattr(");
        let (copies, calls): (Vec<&str>, Vec<&str>) = log.lines().filter(is_one).partition(is_copy);
        assert!(copies.len() <= 2, "{backend}: {copies:#?}");
        assert!(matches!(calls[..], [start] if start.contains("execve(")), "{backend}: {calls:#?}");
    }
}
