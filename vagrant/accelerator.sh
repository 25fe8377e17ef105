#!/usr/bin/env bash
# Prints kvm where a stock kernel boots under it, else tcg: software emulation. /dev/kvm alone does
# not tell: a paravirtual KVM has it too, and there the emulator hangs instead of failing.
if [[ -w /dev/kvm && (-d /sys/module/kvm_intel || -d /sys/module/kvm_amd) ]]; then
  echo kvm
else
  echo tcg
fi
