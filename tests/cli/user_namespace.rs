//! A store of a user who is root in a user namespace only.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Bench, NOBODY, support, text};

/// The first id of others that a user may have in a namespace.
const FIRST_ID: u32 = 100_000;

/// Layers with what a user namespace may make, then the digest of the tree and the changes.
const SCRIPT: &str = r#"
s() { "$STRATA" --root "$1" --backend "${1##*/}" "${@:2}"; }
run() {
  s "$1" prepare a
  s "$1" mount a m
  mkdir -p m/d/e && echo x > m/f && ln m/f m/g && ln -s f m/l && mkfifo m/p && chmod 700 m/d && echo y > m/d/h
  find m -exec touch -h -d @1000000000 {} +
  s "$1" umount m
  s "$1" commit base a
  s "$1" prepare b base
  s "$1" mount b m
  rm -r m/d m/l && mkdir m/d && echo z > m/d/new && chmod 600 m/p
  touch -d @1000000001 m/d/new m/d m
  s "$1" umount m
  s "$1" commit child b
  s "$1" tree child --digest
  s "$1" diff child
  s "$1" diff child --tar - | sha256sum
  s "$1" rm -r base
  s "$1" gc > gc.out
}
mkdir m
run "$PWD/overlay" > overlay.out
run "$PWD/copy" > copy.out
cmp overlay.out copy.out
cat overlay.out
"#;

#[test]
fn overlay_and_copy_agree_in_a_user_namespace() {
    let Some(bench) = Bench::mounting() else { return };
    let mut probe = bench.unprivileged(|_| Command::new("unshare"));
    let available = probe.args(["-rm", "true"]).output().expect("run unshare");
    let reason = || Err(text(&available.stderr));
    if !support::require("userns", if available.status.success() { Ok(()) } else { reason() }) {
        return;
    }
    let mut command = bench.unprivileged(|strata| {
        let mut command = Command::new("unshare");
        command.env("STRATA", strata);
        command
    });
    command.args(["-rm", "bash", "-euc", SCRIPT]).current_dir(bench.dir.path());
    let output = command.output().expect("run");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{stdout}");
    let [digest, changes @ .., layer] = &stdout.lines().collect::<Vec<_>>()[..] else { panic!("{stdout}") };
    assert!(digest.starts_with("sha256:") && layer.ends_with('-'), "{stdout}");
    assert_eq!(changes, ["M /", "D /l", "M /d", "D /d/e", "D /d/h", "A /d/new", "M /p"]);
}

/// A build and containers, with the machine's network and with none. The first line of input says that there are ids.
const CONTAINERS: &str = r#"
read -r _
mkdir context && cp "$BUSYBOX" context/busybox
cat > Dockerfile <<'EOF'
FROM scratch
COPY busybox /bin/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN --network=none test "$(ls /sys/class/net | tr -d '\n')" = lo
RUN test -e /sys/class/net/lo && ! mkdir /sys/x 2> /dev/null && echo x > /made && chown 7:8 /made
EOF
for backend in overlay copy; do
  for runtime in $RUNTIMES; do
    s() { "$STRATA" --root "$PWD/$backend-$runtime" --backend "$backend" "$@"; }
    s build -q --network host --runtime "$runtime" -t it -f Dockerfile context > id
    s run --rm --runtime "$runtime" --network none it ls /sys/class/net
    s run --runtime "$runtime" --network host --name kept -u 7 it sh -c 'cat /made; id -u; stat -c "%u %g" /made; exit 3' || echo $?
    s diff kept
  done
done
"#;

/// Ids of its own as `unshare --map-auto` gives them, whatever the machine lets its users have: root writes them.
#[test]
fn containers_in_a_user_namespace() {
    let Some(bench) = Bench::mounting() else { return };
    let root = if rustix::process::geteuid().is_root() { Ok(()) } else { Err("to map ids of others".to_owned()) };
    let busybox = fs::metadata("/bin/busybox").map(drop).map_err(|error| error.to_string());
    if !support::require("root", root) || !support::require("busybox", busybox) {
        return;
    }
    let installed = |name: &&str| {
        let found = Command::new(name).arg("--version").output();
        support::require(name, found.map(drop).map_err(|error| error.to_string()))
    };
    let runtimes: Vec<&str> = ["crun", "runc"].into_iter().filter(installed).collect();
    let output = in_namespace(&bench, CONTAINERS, &[("BUSYBOX", "/bin/busybox"), ("RUNTIMES", &runtimes.join(" "))]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{stdout}");
    assert_eq!(stdout, "lo\nx\n7\n7 8\n3\n".repeat(2 * runtimes.len()), "{stdout}");
}

/// A layer with devices, by each way into a store. Not a word of `-v`.
const DEVICES: &str = r#"
read -r _
s() { "$STRATA" --root "$PWD/store" --backend copy "$@"; }
s prepare work
s apply work layer.tar 2>&1
s apply work layer.tar --json | grep skipped
s -q apply work layer.tar 2>&1
s import image.tar > id 2> said && cat said
printf 'FROM scratch\nADD layer.tar /x/\n' > Dockerfile
s build -t built -f Dockerfile . 2>&1 | grep warning
"#;

#[test]
fn devices_that_are_left_out_are_told() {
    let Some(bench) = Bench::mounting() else { return };
    let root = if rustix::process::geteuid().is_root() { Ok(()) } else { Err("to map ids of others".to_owned()) };
    if !support::require("root", root) {
        return;
    }
    let mut layer = tar::Builder::new(Vec::new());
    for number in 0..3 {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Char);
        header.set_size(0);
        header.set_device_major(1).expect("a number");
        header.set_device_minor(number).expect("a number");
        layer.append_data(&mut header, format!("node{number}"), std::io::empty()).expect("append");
    }
    let layer = layer.into_inner().expect("an archive");
    fs::write(bench.path("layer.tar"), &layer).expect("write");
    super::documents::image(&bench, serde_json::json!({}), &layer);
    let output = in_namespace(&bench, DEVICES, &[]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{stdout}");
    let [applied, json, imported, built] = &stdout.lines().collect::<Vec<_>>()[..] else { panic!("{stdout}") };
    let told = "3 device nodes were left out: a user namespace cannot make them";
    assert_eq!(*applied, format!("strata: warning: work: {told}"));
    assert!(json.contains("\"skipped_devices\": 3"), "{json}");
    assert_eq!(*imported, format!("strata: warning: it:1: {told}"));
    assert!(built.ends_with("Dockerfile:2:1: devices left out, which a user namespace cannot make: 3"), "{built}");
}

/// Runs `script` as root of a user namespace with the ids of a whole machine. The first line of its input says that
/// they are there.
pub(super) fn in_namespace(bench: &Bench, script: &str, variables: &[(&str, &str)]) -> std::process::Output {
    let mut command = bench.unprivileged(|strata| {
        let mut command = Command::new("unshare");
        command.env("STRATA", strata).envs(variables.iter().copied());
        command
    });
    command.args(["-Um", "bash", "-euc", script]).current_dir(bench.dir.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
    let mut stdin = child.stdin.take().expect("stdin");
    wait_for_namespace(child.id());
    for file in ["uid_map", "gid_map"] {
        let map = format!("0 {NOBODY} 1\n1 {FIRST_ID} 65535\n");
        fs::write(format!("/proc/{}/{file}", child.id()), map).expect("write the map");
    }
    stdin.write_all(b"go\n").expect("write");
    drop(stdin);
    child.wait_with_output().expect("wait")
}

/// Waits until the process is in another user namespace than this one.
fn wait_for_namespace(process: u32) {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/user")).ok();
    let began = Instant::now();
    while namespace(&process.to_string()) == namespace("self") {
        assert!(began.elapsed() < Duration::from_secs(10), "unshare makes no namespace");
        std::thread::sleep(Duration::from_millis(5));
    }
}
