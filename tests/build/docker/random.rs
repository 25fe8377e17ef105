//! Random build contexts and Dockerfiles.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use proptest::prelude::Rng as _;
use proptest::test_runner::TestRng;

/// Names of directories and files of a context: few, so that they meet.
const NAMES: [&str; 5] = ["a", "b", "c.x", "d.y", "e"];
const MODES: [u32; 5] = [0o644, 0o600, 0o755, 0o4711, 0o640];
const DIR_MODES: [u32; 3] = [0o755, 0o700, 0o2775];
/// Lines of an ignore file. `.dockerignore` itself would only be in the way.
const IGNORED: [&str; 9] = ["*.x", "**/*.y", "a/b", "*/e", "!a/b/e", "!**/c.x", "e", "/a/*", "**/b/**"];
const TARGETS: [&str; 14] =
    ["/t", "/t/", "/t/u", "/t/u/", "v", "./v/", ".", "..", "/etc/", "/l", "/l/", "$D", "$D/", "/home/alice/w/"];
const USERS: [&str; 6] = ["alice", "1000", "1:2", "alice:extra", "root", "7"];

/// Something of a context.
#[derive(Clone, Debug)]
enum Entry {
    Dir(String, u32),
    File(String, u32),
    Link(String, String),
    /// Another name of a file.
    Same(String, String),
}

/// A context and a Dockerfile, whose instructions may be dropped one by one.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    entries: Vec<Entry>,
    ignored: Vec<&'static str>,
    pub(crate) instructions: Vec<String>,
}

struct Maker {
    rng: TestRng,
    stages: usize,
}

impl Maker {
    fn below(&mut self, bound: usize) -> usize {
        self.rng.next_u64() as usize % bound.max(1)
    }

    fn one_in(&mut self, chance: usize) -> bool {
        self.below(chance) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    fn entries(&mut self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        let (mut dirs, mut files, mut taken) = (vec![String::new()], Vec::new(), Vec::new());
        for _ in 0..4 + self.below(10) {
            let dir = dirs[self.below(dirs.len())].clone();
            let path = format!("{dir}{}", self.pick(&NAMES));
            if taken.contains(&path) {
                continue;
            }
            taken.push(path.clone());
            let same = self.below(files.len());
            entries.push(match self.below(8) {
                0..=2 => {
                    dirs.push(format!("{path}/"));
                    Entry::Dir(path, DIR_MODES[self.below(DIR_MODES.len())])
                }
                3 => Entry::Link(path, self.pick(&["a", "b", "../a", "c.x", "./e", "a/b"]).to_owned()),
                4 if !files.is_empty() => Entry::Same(path, files.get(same).cloned().unwrap_or_default()),
                _ => {
                    files.push(path.clone());
                    Entry::File(path, MODES[self.below(MODES.len())])
                }
            });
        }
        entries
    }

    /// A path or a pattern of the context.
    fn source(&mut self, entries: &[Entry]) -> String {
        let known: Vec<&String> = entries
            .iter()
            .map(|entry| match entry {
                Entry::Dir(path, _) | Entry::File(path, _) | Entry::Link(path, _) | Entry::Same(path, _) => path,
            })
            .collect();
        match self.below(10) {
            0 => self.pick(&["*", "?", "[a-c]*", "*/*", "a/*", "*.x", "[^a]*", "*/e", "b*"]).to_owned(),
            1 => ".".to_owned(),
            2 => format!("/{}", known[self.below(known.len())]),
            3 => format!("./{}/", known[self.below(known.len())]).trim_end_matches('/').to_owned(),
            _ => known[self.below(known.len())].clone(),
        }
    }

    fn flags(&mut self) -> String {
        let mut flags = String::new();
        if self.one_in(4) {
            flags.push_str(&format!("--chown={} ", self.pick(&USERS)));
        }
        if self.one_in(5) {
            flags.push_str(&format!("--chmod={} ", self.pick(&["711", "0640", "go-rx", "u=rwX,go=rX", "a+x", "u+s"])));
        }
        if self.one_in(6) {
            flags.push_str(&format!("--exclude={} ", self.pick(&["b", "*.x", "**/e", "a/*", "!a/b"])));
        }
        if self.one_in(8) {
            flags.push_str("--link ");
        }
        flags
    }

    fn copy(&mut self, entries: &[Entry]) -> String {
        let (word, flags) = (if self.one_in(5) { "ADD" } else { "COPY" }, self.flags());
        let target = self.pick(&TARGETS).to_owned();
        let mut sources = vec![self.source(entries)];
        // Excluding what a pattern matches is in the list of differences.
        if flags.contains("--exclude") && sources[0].contains(['*', '?', '[']) {
            sources = vec![".".to_owned()];
        }
        // Where several go to one file, only the last is left with Docker: that is refused here.
        if self.one_in(4) && target.ends_with('/') && !flags.contains("--exclude") {
            sources.push(self.source(entries));
        }
        format!("{word} {flags}{} {target}", sources.join(" "))
    }

    fn stage_copy(&mut self) -> String {
        let flags = self.flags();
        let from = match self.stages {
            1 => "base".to_owned(),
            stages => format!("s{}", self.below(stages - 1)),
        };
        let source = self.pick(&["/etc/passwd", "/etc", "/etc/*", "/home", "/et?/group", "etc/"]);
        format!("COPY {flags}--from={from} {source} {}", self.pick(&TARGETS))
    }

    fn command(&mut self) -> String {
        let commands = [
            "mkdir -p /t/u && echo 1 > /t/f",
            "ln -sfn /t /l; ls / > /dev/null",
            "ln -sfn etc /l",
            "rm -rf /t/u /l && mkdir -p /t/u",
            "mkdir -p -m 750 /t/u/w && chown 3:4 /t/u /t/u/w",
            "echo $A$B$D > /vars",
            "pwd > /tmp-pwd && id > /tmp-id && umask >> /tmp-id",
            "chmod -R g+w /t 2>/dev/null; true",
            "rm -rf /etc/group; mkdir -p /home/alice",
            "echo x > /x && ln -f /x /y && touch -d @5 /x",
            "true",
            "env | sort > /env",
        ];
        let command = self.pick(&commands);
        match self.below(6) {
            0 => format!("RUN <<E\n{command}\nE"),
            1 => format!("RUN [\"/bin/sh\", \"-c\", \"{command}\"]"),
            2 => format!("RUN --mount=type=bind,target=/ctx ls -R /ctx | wc -l > /dev/null; {command}"),
            _ => format!("RUN {command}"),
        }
    }

    fn value(&mut self) -> String {
        let values = [
            "1",
            "x y",
            "$A",
            "${B:-b}",
            "${A:+set}$B",
            "'$A'",
            "\"a $B\"",
            "a\\$b",
            "${D#/}",
            "${D%/*}",
            "${A/1/2}",
            "\"\\\"q\\\\\"",
            "",
            "${B-n}",
            "é",
        ];
        let value = self.pick(&values);
        if value.contains(' ') && !value.starts_with(['"', '\'']) { format!("\"{value}\"") } else { value.to_owned() }
    }

    fn setting(&mut self) -> String {
        let (name, value) = (self.pick(&["A", "B", "D"]).to_owned(), self.value());
        match self.below(14) {
            0 | 1 => format!("ENV {name}={value}"),
            2 => format!("ENV {name} some {value} more"),
            3 | 4 => format!("ARG {name}={value}"),
            5 => format!("ARG {name}"),
            6 => format!("LABEL {name}={value} other=\"$A.$B\""),
            7 => self
                .pick(&["CMD a $b", "CMD [\"a\"]", "ENTRYPOINT x", "ENTRYPOINT [\"x\", \"y\"]", "CMD []"])
                .to_owned(),
            8 => self.pick(&["EXPOSE 80 81/udp", "EXPOSE 9-11", "EXPOSE $E 7", "EXPOSE 1:2"]).to_owned(),
            9 => self.pick(&["VOLUME /v $D", "VOLUME [\"/a\", \"b c\"]", "VOLUME v"]).to_owned(),
            10 => {
                self.pick(&["STOPSIGNAL 9", "STOPSIGNAL SIGINT", "HEALTHCHECK NONE", "HEALTHCHECK CMD $A"]).to_owned()
            }
            11 => self
                .pick(&[
                    "SHELL [\"/bin/sh\", \"-ec\"]",
                    "MAINTAINER $A me",
                    "ONBUILD RUN touch /ob",
                    "ONBUILD ENV A=ob",
                ])
                .to_owned(),
            12 => format!("USER {}", self.pick(&USERS)),
            _ => format!("ENV A=n B=$A C={value}"),
        }
    }

    fn document(&mut self) -> String {
        let flags = self.flags();
        let name = self.pick(&["E", "\"E\"", "-E"]);
        let target = self.pick(&["/t/", "/t/doc", "doc", "/l/"]);
        format!("COPY {flags}<<{name} {target}\n\tone $A ${{B:-b}} \\$D\n\n  two\nE")
    }

    fn stage(&mut self) -> String {
        let base = match self.below(5) {
            0 if self.stages > 0 => format!("s{}", self.below(self.stages)),
            1 if self.stages > 0 => "scratch".to_owned(),
            _ => "base".to_owned(),
        };
        self.stages += 1;
        format!("FROM {base} AS s{}", self.stages - 1)
    }

    fn instruction(&mut self, entries: &[Entry]) -> String {
        match self.below(20) {
            0..=7 => self.copy(entries),
            8 => self.stage_copy(),
            9..=11 => self.command(),
            12..=15 => self.setting(),
            16 => self.document(),
            17 | 18 => {
                format!("WORKDIR {}", self.pick(&["/t", "u", "/l/w", "$D", "..", "/w/$A", "/", "/t/../s/", "./x"]))
            }
            _ => self.stage(),
        }
    }
}

impl Script {
    pub(crate) fn new(rng: TestRng) -> Self {
        let mut maker = Maker { rng, stages: 0 };
        let entries = maker.entries();
        let ignored = match maker.below(3) {
            0 => (0..1 + maker.below(3)).map(|_| maker.pick(&IGNORED)).collect(),
            _ => Vec::new(),
        };
        let mut instructions = vec![maker.stage(), "ENV D=/d/e".to_owned()];
        for _ in 0..2 + maker.below(7) {
            instructions.push(maker.instruction(&entries));
        }
        Self { entries, ignored, instructions }
    }

    pub(crate) fn dockerfile(&self) -> String {
        let mut text = self.instructions.join("\n");
        text.push('\n');
        text
    }

    /// Makes the context at `root`, which is not there yet.
    pub(crate) fn write(&self, root: &Path) {
        fs::create_dir(root).expect("mkdir");
        for entry in &self.entries {
            match entry {
                Entry::Dir(path, _) => fs::create_dir(root.join(path)).expect("mkdir"),
                Entry::File(path, mode) => {
                    fs::write(root.join(path), path).expect("write");
                    fs::set_permissions(root.join(path), Permissions::from_mode(*mode)).expect("chmod");
                }
                Entry::Link(path, target) => symlink(target, root.join(path)).expect("link"),
                Entry::Same(path, first) => fs::hard_link(root.join(first), root.join(path)).expect("link"),
            }
        }
        for entry in &self.entries {
            if let Entry::Dir(path, mode) = entry {
                fs::set_permissions(root.join(path), Permissions::from_mode(*mode)).expect("chmod");
            }
        }
        if !self.ignored.is_empty() {
            fs::write(root.join(".dockerignore"), self.ignored.join("\n")).expect("write");
        }
    }

    /// Scripts without one of the instructions, or one of the ignored patterns.
    pub(crate) fn smaller(&self) -> Vec<Self> {
        let mut found = Vec::new();
        for at in (1..self.instructions.len()).rev() {
            let mut script = self.clone();
            script.instructions.remove(at);
            found.push(script);
        }
        for at in (0..self.ignored.len()).rev() {
            let mut script = self.clone();
            script.ignored.remove(at);
            found.push(script);
        }
        found
    }
}

impl std::fmt::Display for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "context {:?}, ignored {:?}\n{}", self.entries, self.ignored, self.dockerfile())
    }
}
