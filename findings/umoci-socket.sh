#!/usr/bin/env bash
# umoci cannot make a layer of a root file system that holds a socket.
#
# A tar archive has no entry for a socket. GNU tar, bsdtar, Docker, podman and buildah leave a socket out of the layer
# with at most a message, since the process behind the socket is gone anyway.
# Seen (umoci 0.4.7 of Debian 13; 0.6.0 does the same): `umoci repack` ends with "sockets not supported" and writes nothing, so one socket that a
# service has left below /run or /tmp keeps every other change from being saved. The same holds for `umoci insert`.
# Needs: root, mmdebstrap, python3.
# shellcheck source=findings/common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
debian_package trixie umoci 0.4.7+ds-4
umoci=("${LOADER[@]}" "$T/debian/usr/bin/umoci")

"${umoci[@]}" init --layout "$T/image"
"${umoci[@]}" new --image "$T/image:one"
"${umoci[@]}" unpack --image "$T/image:one" "$T/bundle" > "$T/said" 2>&1
echo content > "$T/bundle/rootfs/file"
python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' "$T/bundle/rootfs/service.sock"

"${umoci[@]}" repack --image "$T/image:two" "$T/bundle" > "$T/said" 2>&1 && status=0 || status=$?
expect "status of repack" "$status" 1
expect "its reason" "$(grep -o 'archive/tar: sockets not supported' "$T/said" | head -n 1)" \
  "archive/tar: sockets not supported"
mkdir "$T/inserted"
mv "$T/bundle/rootfs/service.sock" "$T/inserted/"
"${umoci[@]}" insert --image "$T/image:one" "$T/inserted" /run > "$T/said" 2>&1 && status=0 || status=$?
expect "status of insert" "$status" 1
"${umoci[@]}" repack --image "$T/image:two" "$T/bundle" > "$T/said" 2>&1 && status=0 || status=$?
expect "status of repack without the socket" "$status" 0
expect "GNU tar leaves the socket out" "$(tar -C "$T/inserted" -cf - . 2> "$T/said" | tar -tf - | paste -sd ' ')" "./"
