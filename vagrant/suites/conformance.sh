#!/usr/bin/env bash
# Is what containers see right, on this kernel: `strata conformance` for each file system and each
# strategy that it can carry. Ends with one line for each:
#
#   RESULT kernel filesystem strategy passed expected failed skipped
set -euo pipefail
# shellcheck source=vagrant/suites/common.sh
. "$(dirname "$0")/common.sh"

PAIRS=(
  ext4/overlay ext4/copy
  xfs/overlay xfs/copy
  btrfs/overlay btrfs/btrfs btrfs/copy
  tmpfs/overlay tmpfs/copy
)

# Counts the answers of one run, which are in the form of the Test Anything Protocol.
count() {
  awk -v kernel="$(uname -r)" -v pair="$1" '
    /^ok .*# SKIP/ { skipped++; next }
    /^ok / { passed++; next }
    /^not ok .*# TODO/ { expected++; next }
    /^not ok / { failed++ }
    END {
      split(pair, of, "/")
      printf "RESULT %s %s %s %d %d %d %d\n", kernel, of[1], of[2], passed, expected, failed, skipped
    }' "$2"
}

# One run; what failed, and why, is shown with it.
judge() {
  local pair=$1 log=$2/${1/\//-} status=0 line
  "$STRATA" conformance --fs "${pair%/*}" --strategy "${pair#*/}" --format tap >"$log" 2>"$log.err" || status=1
  line=$(count "$pair" "$log")
  echo "$line" >"$log.result"
  # Neither an empty answer nor one of skips alone is a verdict.
  [[ $(cut -d ' ' -f 5 <<<"$line") -gt 0 ]] || status=1
  if [[ $status -ne 0 ]]; then
    grep -A 12 '^not ok' "$log" | grep -v -- '# TODO' || true
    tail -n 5 "$log.err"
    echo "conformance: $pair failed"
    return 1
  fi
}

find_strata
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
export STRATA_REQUIRE=root,overlay,btrfs,copy,ext4,xfs,tmpfs
status=0
# As many at a time as there are processors: each has file systems of its own.
for pair in "${PAIRS[@]}"; do
  while [[ $(jobs -rp | wc -l) -ge $(nproc) ]]; do wait -n || status=1; done
  judge "$pair" "$logs" &
done
while [[ -n $(jobs -p) ]]; do wait -n || status=1; done
kernel_is_well || status=1
for pair in "${PAIRS[@]}"; do cat "$logs/${pair/\//-}.result"; done
exit $status
