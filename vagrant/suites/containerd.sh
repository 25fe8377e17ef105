#!/usr/bin/env bash
# Checks strata behind containerd: runs the tests of tests/containerd with this system's containerd, on this kernel.
# Arguments are passed to the test program.
#
# STRATA_EVERY=N: each subject runs only every N-th case of `strata conformance`.
#
# On an emulated processor the default is a sample: everyday use, a daemon that is killed, the layers that the differ
# applies, and calls through the socket. Each test covers all strategies, or code that does not depend on one. They run
# one at a time, because one of them starts 20 containers at once.
set -euo pipefail
# shellcheck source=vagrant/suites/common.sh
. "$(dirname "$0")/common.sh"

SAMPLE=(
  everyday::on_every_strategy killed::in_the_middle_of_commits layers::are_unpacked_by_the_transfer_service
  service:: refusals:: patience:: conformance::by_our_socket
)
# Too slow on an emulated processor: the second run with another containerd, and a list of hundreds.
NOT=(--skip everyday::on_every_strategy_with_1_7 --skip service::a_list_has_no_end)

if [[ $# -eq 0 ]] && is_emulated; then
  export STRATA_EVERY=${STRATA_EVERY:-24}
  set -- --test-threads=1 "${NOT[@]}" "${SAMPLE[@]}"
  echo "containerd: the processor is emulated: a sample (all of them: containerd.sh --test-threads=2), STRATA_EVERY=$STRATA_EVERY: ${SAMPLE[*]}"
fi
export STRATA_REQUIRE=root,overlay,btrfs,copy,ext4,xfs,containerd,ctr,runc,busybox
status=0
run_test containerd "$@" || status=1
kernel_is_well || status=1
exit $status
