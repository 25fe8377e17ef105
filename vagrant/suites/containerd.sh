#!/usr/bin/env bash
# Is strata right behind containerd: the tests of tests/containerd, with this system's containerd, on this
# kernel. Arguments go to the test program.
#
# STRATA_EVERY=N: of the cases of `strata conformance` each subject is held to every N-th only.
#
# An emulated processor takes a sample if nobody says otherwise: what people do, a daemon that is killed, the layers
# that the differ applies, and calls by the socket. Each test is of all strategies, or of what has none. They run one
# at a time, for one of them starts 20 containers at once.
set -euo pipefail
# shellcheck source=vagrant/suites/common.sh
. "$(dirname "$0")/common.sh"

SAMPLE=(
  everyday::on_every_strategy killed::in_the_middle_of_commits layers::are_unpacked_by_the_transfer_service
  service:: refusals:: patience:: conformance::by_our_socket
)
# Too slow there: the second time with another containerd, and a list of hundreds.
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
