# shellcheck shell=bash
# Functions of all suites: the programs to run, and a result that is not a success if nothing ran. To be sourced. Exit
# status of a suite: 0 passed, 1 something failed, 2 it could not be run.

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BIN=$CHECKOUT/target/vm/bin
export PATH=$PATH:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin

die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 2; }

# Every suite mounts and creates file systems.
[[ $EUID -eq 0 ]] || exec sudo -E "$0" "$@"

# True if the processor is emulated: then the default is to run a sample.
is_emulated() { grep -q 'QEMU TCG' /proc/cpuinfo; }

# Loads the modules of the file systems that the suites use: in a small guest nothing else loads them.
for module in overlay btrfs xfs loop fuse; do modprobe -q "$module" || true; done

# shellcheck disable=SC2034 # STRATA is used by scripts that source this
# Sets STRATA to a program that runs here: the one that the host built, or one that cargo builds here.
find_strata() {
  if [[ -x $BIN/strata ]] && "$BIN/strata" --version >/dev/null 2>&1; then
    STRATA=$BIN/strata
  elif command -v cargo >/dev/null; then
    (cd "$CHECKOUT" && cargo build --quiet --locked --bin strata) || die "cargo could not build strata"
    STRATA=$CHECKOUT/target/debug/strata
  else
    die "no strata in $BIN that runs here (vagrant/stage.sh target/vm/bin on the host makes it), and no cargo to build it"
  fi
}

# Runs cargo's test program $1 with the given arguments.
run_test() {
  local name=$1 log passed status=0
  shift
  log=$(mktemp)
  if [[ -x $BIN/$name ]]; then
    link_checkout
    "$BIN/$name" "$@" 2>&1 | tee "$log" || status=1
  elif command -v cargo >/dev/null; then
    (cd "$CHECKOUT" && cargo test --locked --test "$name" -- "$@") 2>&1 | tee "$log" || status=1
  else
    die "no $name in $BIN (vagrant/stage.sh target/vm/bin $name on the host makes it), and no cargo to build it"
  fi
  passed=$(sed -nE 's/^test result: .* ([0-9]+) passed.*/\1/p' "$log" | tail -n 1)
  rm -f "$log"
  [[ ${passed:-0} -gt 0 ]] || die "$name ran no test"
  return $status
}

# Test programs look for strata and for a second containerd where the programs were built.
link_checkout() {
  local built
  built=$(cat "$BIN/checkout")
  if [[ ! -e $built ]]; then
    mkdir -p "$(dirname "$built")"
    ln -s "$CHECKOUT" "$built"
  fi
  # Not possible if the host shares its checkout read-only; a test that needs strata then says so.
  if [[ ! -e $built/target/debug/strata && -w $built ]]; then
    mkdir -p "$built/target/debug"
    ln -s "$BIN/strata" "$built/target/debug/strata"
  fi
}

# Fails if the kernel logged a complaint about itself since it was started.
kernel_is_well() {
  ! dmesg | grep -E '\bBUG: |\bWARNING: |Oops|general protection|possible recursive|hung_task|blocked for more than'
}
