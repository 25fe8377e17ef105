#!/usr/bin/env bash
# How do the strategies compare on this kernel: `strata compare`, with arguments for it. It proves nothing
# right, and figures of an emulated processor say nothing about any other: there, without arguments, little
# is measured, once.
set -euo pipefail
# shellcheck source=vagrant/suites/common.sh
. "$(dirname "$0")/common.sh"

find_strata
if [[ $# -eq 0 ]] && is_emulated; then set -- --quick --samples 1 --files 50; fi
"$STRATA" compare "$@" || exit 1
