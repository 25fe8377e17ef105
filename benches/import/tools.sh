# shellcheck shell=bash disable=SC2154 # run.sh sets files, work and strata
# The tools that run.sh measures.
#
# tar writes one layer and verifies nothing. umoci verifies both digests of a layer. podman and containerd (through its
# client, with a daemon that was started before) verify the digests that they would verify for a registry. None of them
# waits for the disk. Each has its own directories and socket.

# measured TOOL [IMAGE]: runs the tool; writes seconds, processor seconds and KiB to $work/took.
measured() {
  local tool=$1 busy; shift
  if [[ $tool == containerd ]]; then
    busy=$(daemon_seconds)
    timed ctr --address "$work/containerd.sock" image import --snapshotter overlayfs "$files/image.tar"
    awk -v busy="$busy" -v now="$(daemon_seconds)" '{ $2 += now - busy; $3 = 0; print }' "$work/took" >"$work/sum"
    mv "$work/sum" "$work/took"
    end_containerd
  else
    "run_$tool" "$@"
  fi
}

timed() {
  command time -o "$work/time" -f '%e %U %S %M' "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
  awk '{ print $1, $2 + $3, $4 }' "$work/time" >"$work/took"
}

run_strata() { timed "$strata" -q --root "$work/fs/store" --backend overlay import "$files/$1$([[ $1 == usr ]] || echo .tar)"; }
run_tar() { mkdir "$work/fs/root"; timed tar -C "$work/fs/root" -xzp --xattrs -f "$(find "$files/usr/blobs" -type f -size +1M)"; }
run_umoci() { timed umoci unpack --image "$files/image:image" "$work/fs/bundle"; }
run_podman() {
  timed podman --root "$work/fs/podman" --runroot "$work/run" --storage-driver overlay load -i "$files/image.tar"
}

before_containerd() {
  printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >"$work/containerd.toml"
  setpriv --pdeathsig KILL containerd --config "$work/containerd.toml" --root "$work/fs/containerd" \
    --state "$work/state" --address "$work/containerd.sock" >"$work/containerd.log" 2>&1 &
  daemon=$!
  for ((wait = 0; wait < 100; wait++)); do
    ! ctr --address "$work/containerd.sock" version >/dev/null 2>&1 || return 0
    sleep 0.1
  done
}
daemon_seconds() { awk -v tick="$(getconf CLK_TCK)" '{ print ($14 + $15 + $16 + $17) / tick }' "/proc/$daemon/stat"; }
end_containerd() { [[ -z ${daemon:-} ]] || { kill "$daemon"; wait "$daemon" || true; daemon=; }; }

versions() {
  "$strata" --version; tar --version | head -n 1; gzip --version | head -n 1; umoci --version; podman --version
  containerd --version
}
