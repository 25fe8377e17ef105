#!/usr/bin/env bash
# Checks what containers see on this kernel: runs `strata conformance` for each file system and each strategy that can
# use it. Prints one line for each:
#
#   RESULT kernel filesystem strategy passed expected failed skipped
#
# STRATA_EVERY=N: runs only every N-th case of each pair, each pair beginning at another case, so that all cases run if
# N is at most the number of pairs. This is the default on an emulated processor, where all cases on all pairs take very
# long. STRATA_FIRST=N: the first pair begins at the N-th case.
set -euo pipefail
# shellcheck source=vagrant/suites/common.sh
. "$(dirname "$0")/common.sh"

PAIRS=(
  ext4/overlay ext4/copy
  xfs/overlay xfs/copy xfs/copy+reflink
  btrfs/overlay btrfs/btrfs btrfs/copy btrfs/copy+reflink
  tmpfs/overlay tmpfs/copy
)

# Counts the results of one run, which are in the Test Anything Protocol.
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

# Prints the cases that pair number $1 runs, as one pattern.
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

# Runs one pair, and prints failures with their reasons.
judge() {
  local pair=$1 log=$2/${1/\//-} status=0 line cases
  cases=$(cases_of "$(($3 + ${STRATA_FIRST:-0}))")
  # No case here checks the state after a power cut, and an emulated disk is slow.
  "$STRATA" conformance --durability none --fs "${pair%/*}" --strategy "${pair#*/}" \
    --case "$cases" --format tap >"$log" 2>"$log.err" || status=1
  line=$(count "$pair" "$log")
  echo "$line" >"$log.result"
  echo "conformance: $pair is through after $SECONDS s"
  # An empty result, or only skipped cases, is not a success.
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
# As many pairs at a time as there are processors: each pair has file systems of its own.
for pair in "${PAIRS[@]}"; do
  while [[ $(jobs -rp | wc -l) -ge $(nproc) ]]; do wait -n || status=1; done
  judge "$pair" "$logs" "$number" &
  number=$((number + 1))
done
while [[ -n $(jobs -p) ]]; do wait -n || status=1; done
kernel_is_well || status=1
for pair in "${PAIRS[@]}"; do cat "$logs/${pair/\//-}.result"; done
exit $status
