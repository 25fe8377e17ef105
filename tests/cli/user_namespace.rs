//! A store of a user who is root in a user namespace only.

use std::process::Command;

use super::{Bench, support, text};

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
