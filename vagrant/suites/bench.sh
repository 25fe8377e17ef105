#!/usr/bin/env bash
# How do the strategies compare on this kernel: `strata compare`, with arguments for it. It proves nothing
# right, and figures of an emulated processor say nothing about any other.
set -euo pipefail
# shellcheck source=vagrant/suites/common.sh
. "$(dirname "$0")/common.sh"

find_strata
"$STRATA" compare "$@" || exit 1
