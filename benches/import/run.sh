#!/usr/bin/env bash
# usage: run.sh STRATA [ROUNDS]
#
# Measures imports by the program STRATA against other tools, with the same files, in turn, each on a new ext4 on a loop
# device, and prints a table. The ext4 is in memory, or in a file below STRATA_BENCH_DIR. Only strata waits for the disk
# and verifies both digests of each layer; tools.sh says what the others do. Everything runs in a private mount
# namespace, so that nothing is left mounted however the run ends. Needs root and the packages of vagrant/provision.sh.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
if [[ -z ${BENCH_PRIVATE:-} ]]; then
  [[ $EUID -eq 0 ]] || { echo "run.sh: needs root" >&2; exit 1; }
  files=$("$here/image.sh" "$here/../../target/bench-import")
  export BENCH_PRIVATE=$files
  exec unshare --mount --propagation private "$0" "$@"
fi
files=$BENCH_PRIVATE strata=$1 rounds=${2:-5}
work=$(mktemp -d "${STRATA_BENCH_DIR:-/tmp}/strata-bench.XXXXXX")
export TMPDIR=$work
trap 'end_containerd; umount -qR "$work/fs" "$work" || true; rm -rf --one-file-system "$work"' EXIT
trap 'exit 1' INT TERM HUP
[[ -n ${STRATA_BENCH_DIR:-} ]] || mount -t tmpfs -o size=80% strata-bench "$work"
mkdir "$work/fs"
# shellcheck source=benches/import/tools.sh
. "$here/tools.sh"

# One sample of a tool: its name, the elapsed seconds, the processor seconds, and the memory in KiB.
sample() {
  umount -q "$work/fs" || true
  rm -f "$work/disk"
  truncate -s 6G "$work/disk"
  mkfs.ext4 -qF -E lazy_itable_init=0,lazy_journal_init=0 "$work/disk"
  mount -o loop "$work/disk" "$work/fs"
  "before_${1%% *}" 2>/dev/null || true
  sync -f "$work/fs"
  # shellcheck disable=SC2086 # a tool and its argument
  measured $1
  echo "$1 $(cat "$work/took")" >>"$work/samples"
}

tools=("strata usr" "tar usr" "strata image" umoci podman containerd)
for ((round = 0; round < rounds; round++)); do
  for tool in "${tools[@]}"; do sample "$tool"; done
done
echo "$(uname -sr), $(nproc) cores; ext4 on a loop device over ${STRATA_BENCH_DIR:-memory}; $rounds rounds in turn"
versions
echo
awk -f "$here/table.awk" "$work/samples"
