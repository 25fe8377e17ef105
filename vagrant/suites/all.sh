#!/usr/bin/env bash
# Runs every suite that proves something, one after another; exits with the worst status.
set -euo pipefail

worst=0
for suite in conformance containerd crash; do
  status=0 began=$SECONDS
  "$(dirname "$0")/$suite.sh" || status=$?
  echo "SUITE $suite: status $status after $((SECONDS - began)) s"
  if [[ $status -gt $worst ]]; then worst=$status; fi
done
exit $worst
