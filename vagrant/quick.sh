#!/usr/bin/env bash
# quick.sh [--all] [KERNEL...]: is strata right on these kernels of Debian's (6.1 and 6.12, unless others are
# named: 6.18, 7.3.4), on ext4, xfs, btrfs and tmpfs? Boots each with an emulator, without a box, an
# init system or a network, and runs `strata conformance` in it. Ends with one table, and with the
# status of the worst: 0 all passed, 1 something failed, 2 something could not be run.
#
# Every case is tried on every kernel, but on a few of the strategies and file systems only, others for
# each case: the emulated processor is slow. With --all each is tried on each.
#
# The kernels and the root image come from Debian's archive and are kept below target/vm; a newer
# kernel of a series is had by removing target/vm/kernels. The host needs no root but for that image.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=vagrant/archive.sh
. vagrant/archive.sh
CACHE=$PWD/target/vm
RUN=$CACHE/quick

die() { printf 'quick: %s\n' "$*" >&2; exit 2; }

# What the guest sees of the host: the suites and the programs, in their places in a checkout.
make_share() {
  rm -rf "$RUN"
  mkdir -p "$RUN/share/vagrant" "$RUN/share/target/vm"
  cp -r vagrant/suites "$RUN/share/vagrant/"
  cp -r "$CACHE/bin" "$RUN/share/target/vm/"
}

# The result of one kernel is in $RUN/KERNEL; a guest that gave none is a failure.
run_kernel() {
  local kernel=$1 out=$RUN/$1 status=0
  vagrant/quick/boot.sh "$CACHE/kernels/$kernel" "$image" "$RUN/share" "vagrant/suites/conformance.sh" "$out" || status=$?
  touch "$out"
  tr -d '\r' <"$out" >"$out.log"
  if [[ $status -eq 0 ]] && ! grep -q '^RESULT ' "$out.log"; then status=2; fi
  if [[ $status -ne 0 ]]; then
    grep -v '^RESULT ' "$out.log" || true
    echo "-- the kernel's last words:"
    tail -n 15 "$out.console"
  fi
  echo "-- $kernel: status $status, after $SECONDS s"
  return $status
}

print_table() {
  printf '\n'
  {
    echo "KERNEL FILE-SYSTEM STRATEGY PASSED EXPECTED FAILED SKIPPED"
    for kernel in "${kernels[@]}"; do
      sed -n 's/^RESULT //p' "$RUN/$kernel.log" | grep . || echo "$kernel - - - - - -"
    done
  } | column -t -R 4,5,6,7
}

# One for each pair of a strategy and a file system.
export STRATA_EVERY=11
if [[ ${1-} == --all ]]; then
  STRATA_EVERY=1
  shift
fi
kernels=("$@")
[[ $# -gt 0 ]] || kernels=(6.1 6.12)
for kernel in "${kernels[@]}"; do
  [[ $kernel =~ ^[0-9]+\.[0-9]+[-+.a-z0-9]*$ ]] || die "not the version of a kernel: $kernel"
done
[[ $(dpkg --print-architecture 2>/dev/null) == amd64 ]] || die "this needs Debian on amd64: kernels, root image and programs are its own"
vagrant/provision.sh --quick
release=$(debian_release) || die "this is no Debian: its programs would not fit the guest's"
image=$CACHE/root-$release.img
vagrant/quick/root.sh "$image"
for kernel in "${kernels[@]}"; do vagrant/quick/kernel.sh "$kernel" "$CACHE/kernels/$kernel"; done
vagrant/stage.sh
make_share

worst=0
for kernel in "${kernels[@]}"; do
  status=0
  run_kernel "$kernel" || status=$?
  # What was not run is no worse than what failed, but it is no success either.
  if [[ $status -gt 2 ]]; then status=2; fi
  if [[ $status -gt $worst ]]; then worst=$status; fi
done
print_table
exit $worst
