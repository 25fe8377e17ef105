#!/usr/bin/env bash
# usage: build.sh [ROUNDS]
#
# Measures strata build against `buildah bud --layers`, and strata run against podman run, with their
# overlay drivers and the same runtime: a Dockerfile of 12 light steps on a distribution's own base, so
# that the tools are measured and not the commands. The tools take turns within each round; the medians
# and their ratios are printed, then how many layers each makes of steps that change nothing. Needs
# root, and what vagrant/provision.sh installs. RUNTIME names the OCI runtime (runc), STRATA the
# program (the release build of this checkout).
# shellcheck disable=SC2317 # functions are called by name
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-5}
runtime=${RUNTIME:-runc}
strata=${STRATA:-target/release/strata}

die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }
[[ $EUID -eq 0 ]] || die "needs root"
[[ -x $strata ]] || die "$strata is not built: cargo build --release"
for program in "$runtime" buildah podman skopeo jq; do
  command -v "$program" >/dev/null || die "$program is missing: run vagrant/provision.sh"
done
strata=$(realpath "$strata")

image=$(tests/support/real-image.sh target/real-image)
work=$(mktemp -d "${TMPDIR:-/tmp}/strata-bench.XXXXXX")
theirs=(--root "$work/theirs" --runroot "$work/run" --storage-driver overlay)
clean_up() {
  buildah "${theirs[@]}" rm --all >/dev/null 2>&1 || true
  umount -R "$work/theirs/overlay" 2>/dev/null || true
  rm -rf --one-file-system "$work"
}
trap clean_up EXIT
export STRATA_ROOT=$work/ours

mkdir "$work/context"
echo 'a file' >"$work/context/file"
cat >"$work/context/Dockerfile" <<'EOF'
FROM localhost/base:1
RUN true
RUN echo 1 > /one
RUN mkdir /two && echo 2 > /two/file
RUN touch /three && rm /three
RUN chmod 644 /one
COPY file /four/
RUN echo 5 >> /one
WORKDIR /six
RUN echo 7 > seven
COPY file /eight
RUN rm /eight
RUN true
EOF
steps=12

$strata --backend overlay import "$image/oci:layer1" --name localhost/base:1 >/dev/null
skopeo --insecure-policy copy --quiet "oci:$image/oci:layer1" \
  "containers-storage:[overlay@$work/theirs+$work/run]localhost/base:1"

ours_build() { "$strata" build -q --runtime "$runtime" -t it "$@" "$work/context"; }
theirs_build() {
  buildah "${theirs[@]}" bud -q --layers --isolation oci --runtime "$runtime" -t it "$@" "$work/context"
}
ours_run() { "$strata" run --rm --runtime "$runtime" localhost/base:1 true; }
# The limits are set for machines that refuse podman's own limits.
theirs_run() {
  podman "${theirs[@]}" --cgroup-manager cgroupfs run --rm --runtime "$runtime" --network host \
    --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 localhost/base:1 true
}

# Prints the milliseconds that a command takes.
measure() {
  local from to
  from=$(date +%s%N)
  "$@" >/dev/null 2>"$work/said" || { cat "$work/said" >&2; die "failed: $*"; }
  to=$(date +%s%N)
  echo $(((to - from) / 1000000))
}
median() { sort -n "$1" | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

ours_build --no-cache >/dev/null
theirs_build --no-cache >/dev/null
for ((round = 0; round < rounds; round++)); do
  measure ours_build --no-cache >>"$work/ours.clean"
  measure theirs_build --no-cache >>"$work/theirs.clean"
  measure ours_build >>"$work/ours.cached"
  measure theirs_build >>"$work/theirs.cached"
  measure ours_run >>"$work/ours.run"
  measure theirs_run >>"$work/theirs.run"
done

printf '%s, %s, %s, %s, kernel %s, %s on %s, load %s, %d rounds\n\n' \
  "$("$strata" --version)" "$(buildah --version | cut -d ' ' -f 1-3)" "$(podman --version)" \
  "$("$runtime" --version | head -n 1)" "$(uname -r)" \
  overlay "$(stat -f -c %T "$work")" "$(cut -d ' ' -f 1 /proc/loadavg)" "$rounds"
printf '%-32s %10s %10s %8s %8s\n' '(medians, ms)' strata other ratio goal
failed=0
row() {
  local ours theirs
  ours=$(median "$work/ours.$1")
  theirs=$(median "$work/theirs.$1")
  awk -v what="$2" -v ours="$ours" -v theirs="$theirs" -v goal="$3" 'BEGIN {
    printf "%-32s %10d %10d %8.2f %8s\n", what, ours, theirs, ours / theirs, "<= " goal
    exit ours / theirs > goal }' || failed=1
}
row clean "clean build, 12 steps" 0.6
row cached "cached rebuild" 0.2
row run "run --rm IMAGE true" 0.4
awk -v ours="$(median "$work/ours.clean")" -v steps=$steps 'BEGIN {
  printf "%-32s %10d %10s %8s %8s\n", "a step of the clean build", ours / steps, "", "", "<= 60"
  exit ours / steps > 60 }' || failed=1

# Prints the number of layers that a tool makes for steps after which the tree is unchanged.
printf '\n%-48s %10s %10s\n' '(layers made)' strata buildah
while read -r step; do
  printf 'FROM localhost/base:1\nRUN mkdir /data\nCOPY file /data/\n' >"$work/context/Dockerfile"
  before_ours=$("$strata" build --json -t it --runtime "$runtime" "$work/context" | jq '.layers | length')
  theirs_build >/dev/null 2>&1
  before_theirs=$(buildah "${theirs[@]}" inspect --type image it | jq '.OCIv1.rootfs.diff_ids | length')
  echo "$step" >>"$work/context/Dockerfile"
  after_ours=$("$strata" build --json -t it --runtime "$runtime" "$work/context" | jq '.layers | length')
  theirs_build >/dev/null 2>&1
  after_theirs=$(buildah "${theirs[@]}" inspect --type image it | jq '.OCIv1.rootfs.diff_ids | length')
  printf '%-48s %10d %10d\n' "$step" $((after_ours - before_ours)) $((after_theirs - before_theirs))
done <<'EOF'
RUN true
RUN touch /new && rm /new
RUN chmod 644 /data/file
RUN mv /data/file /moved && mv /moved /data/file
RUN mkdir /dir && rmdir /dir
RUN : >> /data/file
WORKDIR /data
COPY file /data/
EOF
exit $failed
