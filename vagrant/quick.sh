#!/usr/bin/env bash
# quick.sh [--all] [KERNEL...]: checks strata on these kernels of Debian (default: 6.1 and 6.12; others can be named,
# such as 6.18 or 7.3.4), on ext4, xfs, btrfs and tmpfs. It boots all kernels at once in an emulator, without a box, an
# init system or a network, and runs `strata conformance` in each. It prints one table, and exits with the worst status:
# 0 all passed, 1 something failed, 2 something could not be run.
#
# The emulated processor is slow, so every case runs once, on one of the kernels and one pair of strategy and file
# system, and the cases are shared among the pairs. With --all each case runs on each pair, which takes an hour.
#
# The kernels and the root image come from Debian's archive and are kept below target/vm, until the archive has a newer
# kernel or the inputs of the image change. The host needs root only to make the image.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=vagrant/archive.sh
. vagrant/archive.sh
CACHE=$PWD/target/vm
RUN=$CACHE/quick
SHARE=$RUN/share

die() { printf 'quick: %s\n' "$*" >&2; exit 2; }

# Files of the host that the guest sees: the suites and the programs, at their places in a checkout.
make_share() {
  rm -rf "$RUN"
  mkdir -p "$SHARE/vagrant"
  cp -r vagrant/suites "$SHARE/vagrant/"
  vagrant/stage.sh "$SHARE/target/vm/bin"
}

# The result of one kernel is in $RUN/KERNEL; a guest without a result is a failure.
run_kernel() {
  local kernel=$1 out=$RUN/$1 status=0
  vagrant/quick/boot.sh "$CACHE/kernels/$kernel" "$image" "$SHARE" vagrant/suites/conformance.sh "$out" || status=$?
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

# shellcheck disable=SC2317 # called by the trap
cleanup() {
  local pid
  for pid in "${guests[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
}

all=
if [[ ${1-} == --all ]]; then all=yes; shift; fi
kernels=("$@") guests=()
[[ $# -gt 0 ]] || kernels=(6.1 6.12)
# Each kernel runs as many shares of the cases as conformance.sh has pairs; all kernels together have all shares.
PAIRS=11
export STRATA_EVERY=$((PAIRS * ${#kernels[@]})) STRATA_FIRST=0
if [[ -n $all ]]; then export STRATA_EVERY=1 STRATA_VM_TIMEOUT_S=${STRATA_VM_TIMEOUT_S:-14400}; fi
for kernel in "${kernels[@]}"; do
  [[ $kernel =~ ^[0-9]+\.[0-9]+[-+.a-z0-9]*$ ]] || die "not the version of a kernel: $kernel"
done
[[ $(dpkg --print-architecture 2>/dev/null) == amd64 ]] || die "this needs Debian on amd64: kernels, root image and programs are its own"
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
vagrant/provision.sh --quick
release=$(debian_release) || die "this is no Debian: its programs would not fit the guest's"
image=$CACHE/root-$release.img
vagrant/quick/root.sh "$image"
for kernel in "${kernels[@]}"; do vagrant/quick/kernel.sh "$kernel" "$CACHE/kernels/$kernel"; done
make_share

# The processors are divided among the kernels.
cpus=$(($(nproc) / ${#kernels[@]}))
export STRATA_VM_CPUS=$((cpus > 0 ? cpus : 1))
# Each kernel has a process group of its own, so that it can be killed as a whole.
set -m
for kernel in "${kernels[@]}"; do
  run_kernel "$kernel" >"$RUN/$kernel.verdict" 2>&1 &
  guests+=($!)
  STRATA_FIRST=$((STRATA_FIRST + PAIRS))
done
set +m
worst=0
for number in "${!kernels[@]}"; do
  status=0
  wait "${guests[number]}" || status=$?
  cat "$RUN/${kernels[number]}.verdict"
  # A kernel that was not run is not a failure of a case, but not a success either.
  if [[ $status -gt 2 ]]; then status=2; fi
  if [[ $status -gt $worst ]]; then worst=$status; fi
done
print_table
exit $worst
