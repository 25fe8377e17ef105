#!/usr/bin/env bash
# Prints kvm if a stock kernel boots with it, else tcg (software emulation). The existence of /dev/kvm is not enough: a
# paravirtual KVM has it too, and there the emulator hangs instead of failing.
if [[ -w /dev/kvm && (-d /sys/module/kvm_intel || -d /sys/module/kvm_amd) ]]; then
  echo kvm
else
  echo tcg
fi
