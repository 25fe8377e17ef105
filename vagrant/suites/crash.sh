#!/usr/bin/env bash
# Checks the state after power cuts, after a process dies at any system call, and with failing and full disks: runs the
# tests of tests/crash on this kernel. Arguments are passed to the test program.
#
# STRATA_POWER_POINTS=N: number of power cuts for each store. STRATA_FAILING_POINTS=N: number of power cuts for each
# store behind a failing flush. STRATA_BUDGET_S=N: seconds for each random suite.
#
# On an emulated processor the default is a sample: the power cuts on btrfs, which every strategy can use, a few for
# each strategy, and as many faults at system calls as there is time for.
set -euo pipefail
# shellcheck source=vagrant/suites/common.sh
. "$(dirname "$0")/common.sh"

SAMPLE=(
  calls:: trouble:: power::a_power_cut_on_btrfs_takes_nothing_that_was_acknowledged
  power::a_store_that_does_not_wait_is_noticed
)

if [[ $# -eq 0 ]] && is_emulated; then
  export STRATA_POWER_POINTS=${STRATA_POWER_POINTS:-2} STRATA_BUDGET_S=${STRATA_BUDGET_S:-30}
  set -- "${SAMPLE[@]}"
  echo "crash: the processor is emulated: a sample (all of them: crash.sh --test-threads=2), STRATA_POWER_POINTS=$STRATA_POWER_POINTS: ${SAMPLE[*]}"
fi
export STRATA_REQUIRE=root,overlay,btrfs,copy,ext4,xfs,reflink,powercut,strace
status=0
run_test crash "$@" || status=1
kernel_is_well || status=1
exit $status
