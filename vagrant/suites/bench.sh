#!/usr/bin/env bash
# Compares the strategies on this kernel with `strata compare`; arguments are passed to it. It proves nothing, and the
# figures of an emulated processor say nothing about a real one. On an emulated processor, without arguments, it
# measures little, once.
set -euo pipefail
# shellcheck source=vagrant/suites/common.sh
. "$(dirname "$0")/common.sh"

find_strata
if [[ $# -eq 0 ]] && is_emulated; then set -- --quick --samples 1 --files 50; fi
"$STRATA" compare "$@" || exit 1
