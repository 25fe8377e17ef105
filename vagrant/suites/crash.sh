#!/usr/bin/env bash
# What is left after power cuts, a process that dies at any system call, failing and full disks: the tests
# of tests/crash, on this kernel.
set -euo pipefail
# shellcheck source=vagrant/suites/common.sh
. "$(dirname "$0")/common.sh"

export STRATA_REQUIRE=root,overlay,btrfs,copy,ext4,xfs,reflink,powercut,strace
status=0
run_test crash "$@" || status=1
kernel_is_well || status=1
exit $status
