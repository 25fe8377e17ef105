#!/usr/bin/env bash
# ci.sh [COMMAND]: runs the same as people with Vagrant, on a machine without a box, without a public network and
# possibly without an init system. It makes the box from Debian's packages, starts libvirtd, runs `vagrant up`, runs
# COMMAND in the guest (default: suites/all.sh) and exits with its status, or with 2 if it did not get that far. Must
# run as root.
#
# Everything that it starts has its own namespaces for processes, mounts and the network. So it never touches a libvirtd
# that is already running, or the machine's bridges, packet filters and settings. Nothing is left in any case: when the
# first process in the namespaces ends, the kernel ends the others.
set -euo pipefail
cd "$(dirname "$0")/.."
WORK=$PWD/target/vm/ci
# Test programs that the suites run.
TESTS=(crash containerd)

say() { printf 'ci.sh: %s (%d s)\n' "$*" "$SECONDS" >&2; }
die() { say "$*"; exit 2; }

# shellcheck disable=SC2317 # called by the trap
cleanup() {
  # unshare ends after its child, the first process inside; when that ends, all processes inside end.
  if [[ -n ${inside-} ]]; then
    read -r first <"/proc/$inside/task/$inside/children" || true
    kill -KILL "${first:-$inside}" 2>/dev/null || true
    wait "$inside" 2>/dev/null || true
  fi
  rm -rf --one-file-system "$WORK"
}

[[ $EUID -eq 0 ]] || die "root is needed, to start libvirtd"
[[ $(dpkg --print-architecture 2>/dev/null) == amd64 ]] || die "this needs Debian on amd64"
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
vagrant/provision.sh --vagrant
say "building on the host"
vagrant/stage.sh target/vm/bin "${TESTS[@]}" || die "cannot build"
box=$PWD/target/vm/strata.box
vagrant/ci/box.sh "$box" || die "cannot make the box"
rm -rf --one-file-system "$WORK"
mkdir -p "$WORK"
unshare --mount --net --pid --fork --kill-child --mount-proc \
  vagrant/ci/inside.sh "$WORK" "$box" "${*:-/strata/vagrant/suites/all.sh}" &
inside=$!
status=0
wait "$inside" || status=$?
inside=
say "status $status"
exit "$status"
