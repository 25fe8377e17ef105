#!/usr/bin/env bash
# inside.sh WORK BOX COMMAND: process 1 of the namespaces that ci.sh creates. It starts libvirtd without an init system
# and a machine from BOX, and runs COMMAND in it. The files of this run are below WORK.
set -euo pipefail
work=$1 box=$2 command=$3
cd "$(dirname "$0")/.."
export VAGRANT_HOME=$work/home VAGRANT_DOTFILE_PATH=$work/state VAGRANT_DEFAULT_PROVIDER=libvirt
export VAGRANT_CHECKPOINT_DISABLE=1 VAGRANT_NO_COLOR=1 STRATA_BOX=strata-ci

say() { printf 'ci.sh: %s (%d s inside)\n' "$*" "$SECONDS" >&2; }
die() { say "$*"; exit 2; }

# libvirt writes to fixed paths. Here each of them is the machine's own directory with a layer in memory on top, and the
# disks are in $work.
make_private_places() {
  local dir
  mkdir -p "$work/images"
  mount -t tmpfs -o mode=755 tmpfs /run
  mkdir /run/images
  mount --bind "$work/images" /run/images
  for dir in etc var/lib var/log var/cache; do
    mkdir -p "/run/private/$dir/upper" "/run/private/$dir/work"
    mount -t overlay -o "lowerdir=/$dir,upperdir=/run/private/$dir/upper,workdir=/run/private/$dir/work" private "/$dir"
  done
  mkdir -p /etc/libvirt /var/lib/libvirt/images /var/log/libvirt
  mount --bind /run/images /var/lib/libvirt/images
}

# The user and the groups must exist although the settings name others.
configure_libvirt() {
  local group
  for group in kvm libvirt-qemu; do getent group "$group" >/dev/null || groupadd -r "$group"; done
  getent passwd libvirt-qemu >/dev/null || useradd -r -M -g libvirt-qemu -s /usr/sbin/nologin libvirt-qemu
  cat >/etc/libvirt/qemu.conf <<'CONF'
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
remember_owner = 0
CONF
}

start_libvirt() {
  local tries=0
  ip link set lo up
  virtlogd -d
  libvirtd -d
  until virsh -q -c qemu:///system version >/dev/null 2>&1; do
    tries=$((tries + 1))
    [[ $tries -lt 100 ]] || die "libvirtd does not answer: $(tail -n 5 /var/log/libvirt/*.log 2>/dev/null)"
    sleep 0.2
  done
}

bring_up() {
  vagrant box add --name "$STRATA_BOX" "$box" >"$work/box.log" 2>&1 || die "the box is refused: $(cat "$work/box.log")"
  vagrant validate >"$work/up.log" 2>&1 || die "$(cat "$work/up.log")"
  say "vagrant up"
  # The output draws progress in thousands of lines.
  vagrant up >"$work/up.log" 2>&1 || die "vagrant up: $(tr '\r' '\n' <"$work/up.log" | tail -n 20)"
}

make_private_places
configure_libvirt
start_libvirt
bring_up
say "in the guest: $command"
status=0
vagrant ssh -c "$command" 2> >(grep -v '^Connection to .* closed' >&2) || status=$?
vagrant destroy -f >/dev/null 2>&1 || say "vagrant destroy failed"
exit "$status"
