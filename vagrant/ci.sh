#!/usr/bin/env bash
# ci.sh [COMMAND]: the whole way that people with Vagrant go, on a machine that has no box, no public
# network and perhaps no init system: makes the box of Debian's packages, starts libvirtd, `vagrant up`,
# runs COMMAND in the guest (suites/all.sh if none is given) and passes its exit status on; 2 where it
# did not come to that. As root.
#
# All that it starts has namespaces of its own for processes, mounts and the network. So a libvirtd that
# is there already, the machine's bridges, packet filters and settings are never touched, and whatever
# happens, nothing is left: when the first process in there ends, the kernel ends the others.
set -euo pipefail
cd "$(dirname "$0")/.."
WORK=$PWD/target/vm/ci
# The tests that suites run.
TESTS=(crash containerd)

say() { printf 'ci.sh: %s (%d s)\n' "$*" "$SECONDS" >&2; }
die() { say "$*"; exit 2; }

# shellcheck disable=SC2317 # called by the trap
cleanup() {
  # When unshare ends, its child has: the first process inside, and with it everything in there.
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
