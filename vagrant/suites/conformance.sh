#!/usr/bin/env bash
# Is what containers see right, on this kernel: `strata conformance` for each file system and each
# strategy that it can carry. Ends with one line for each:
#
#   RESULT kernel filesystem strategy passed expected failed skipped
#
# STRATA_EVERY=N: of each pair only every N-th case, beginning at another one for each, so that all cases
# are tried as long as N is not above the number of pairs: what an emulated processor does if nobody says
# otherwise, since all on all take it very long. STRATA_FIRST=N: the first begins at the N-th.
set -euo pipefail
# shellcheck source=vagrant/suites/common.sh
. "$(dirname "$0")/common.sh"

PAIRS=(
  ext4/overlay ext4/copy
  xfs/overlay xfs/copy xfs/copy+reflink
  btrfs/overlay btrfs/btrfs btrfs/copy btrfs/copy+reflink
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

# The cases that the pair of number $1 is to try, as one pattern.
cases_of() {
  local every=${STRATA_EVERY:-1}
  [[ $every =~ ^[1-9][0-9]*$ ]] || die "STRATA_EVERY is no number: $every"
  if [[ $every -eq 1 ]]; then
    echo '*'
  else
    "$STRATA" conformance --list | awk -v every="$every" -v first="$1" '
      $1 ~ /\// && (count++ + first) % every == 0 { names = names (names ? "," : "") $1 }
      END { print "{" names "}" }'
  fi
}

# One run; what failed, and why, is shown with it.
judge() {
  local pair=$1 log=$2/${1/\//-} status=0 line cases
  cases=$(cases_of "$(($3 + ${STRATA_FIRST:-0}))")
  # Nothing here asks what a power cut leaves, and an emulated disk is slow.
  "$STRATA" conformance --durability none --fs "${pair%/*}" --strategy "${pair#*/}" \
    --case "$cases" --format tap >"$log" 2>"$log.err" || status=1
  line=$(count "$pair" "$log")
  echo "$line" >"$log.result"
  echo "conformance: $pair is through after $SECONDS s"
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
if [[ -z ${STRATA_EVERY-} ]] && is_emulated; then
  STRATA_EVERY=${#PAIRS[@]}
  echo "conformance: the processor is emulated: each case on one strategy and file system (STRATA_EVERY=1: on each)"
fi
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
export STRATA_REQUIRE=root,overlay,btrfs,copy,ext4,xfs,tmpfs
status=0 number=0
# As many at a time as there are processors: each has file systems of its own.
for pair in "${PAIRS[@]}"; do
  while [[ $(jobs -rp | wc -l) -ge $(nproc) ]]; do wait -n || status=1; done
  judge "$pair" "$logs" "$number" &
  number=$((number + 1))
done
while [[ -n $(jobs -p) ]]; do wait -n || status=1; done
kernel_is_well || status=1
for pair in "${PAIRS[@]}"; do cat "$logs/${pair/\//-}.result"; done
exit $status
