#!/usr/bin/env bash
# What is left after power cuts, a process that dies at any system call, failing and full disks: the tests
# of tests/crash, on this kernel. Arguments go to the test program.
#
# STRATA_POWER_POINTS=N: so many power cuts for each store. STRATA_BUDGET_S=N: seconds for each random suite.
#
# An emulated processor takes a sample if nobody says otherwise: every test, each with few power cuts and
# faults.
set -euo pipefail
# shellcheck source=vagrant/suites/common.sh
. "$(dirname "$0")/common.sh"

if [[ $# -eq 0 && -z ${STRATA_POWER_POINTS-} && -z ${STRATA_BUDGET_S-} ]] && is_emulated; then
  export STRATA_POWER_POINTS=2 STRATA_BUDGET_S=60
  echo "crash: the processor is emulated: a sample of $STRATA_POWER_POINTS power cuts for each store (STRATA_POWER_POINTS=N, STRATA_BUDGET_S=N: more)"
fi
export STRATA_REQUIRE=root,overlay,btrfs,copy,ext4,xfs,reflink,powercut,strace
status=0
run_test crash "$@" || status=1
kernel_is_well || status=1
exit $status
