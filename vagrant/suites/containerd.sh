#!/usr/bin/env bash
# Is strata right behind containerd: the tests of tests/containerd, with this system's containerd, on this
# kernel.
set -euo pipefail
# shellcheck source=vagrant/suites/common.sh
. "$(dirname "$0")/common.sh"

export STRATA_REQUIRE=root,overlay,btrfs,copy,ext4,xfs,containerd,ctr,runc,busybox
status=0
run_test containerd "$@" || status=1
kernel_is_well || status=1
exit $status
