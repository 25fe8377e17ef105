#!/usr/bin/env bash
# fflate.gunzipSync() answers zero bytes, without an error, for a layer in the eStargz form.
#
# An eStargz layer is a valid gzip file of several members. Its last member is empty and carries the position of the
# table of contents. gzip, zlib and pako give the content of all members.
# Seen (fflate 0.8.3, Node.js 20): gunzipSync() takes the size of its result from the last four bytes of the file, which
# are those of the empty member: the result is empty. With two members of equal size the second one is missing. The
# class Gunzip of the same package reads both files right.
# Needs: node, python3.
# shellcheck source=findings/common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
npm_packages fflate@0.8.3 pako@3.0.3

python3 - "$T" <<'PY'
import gzip, struct, sys
members = gzip.compress(b"a" * 100000) + gzip.compress(b"b" * 100000)
field = b"%016x" % len(members) + b"STARGZ"
extra = b"SG" + struct.pack("<H", len(field)) + field
last = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x00\xff" + struct.pack("<H", len(extra)) + extra
last += b"\x01\x00\x00\xff\xff" + bytes(8)
open(sys.argv[1] + "/members.gz", "wb").write(members)
open(sys.argv[1] + "/estargz.gz", "wb").write(members + last)
PY
gzip -t "$T/members.gz" "$T/estargz.gz"

cat > "$T/js/read.mjs" <<'JS'
import fs from "node:fs";
import zlib from "node:zlib";
import * as fflate from "fflate";
import * as pako from "pako";
const packed = fs.readFileSync(process.argv[2]);
const streamed = (data) => {
  let size = 0;
  const gunzip = new fflate.Gunzip((chunk) => { size += chunk.length; });
  gunzip.push(data, true);
  return size;
};
console.log(fflate.gunzipSync(packed).length, streamed(packed), pako.ungzip(packed).length, zlib.gunzipSync(packed).length);
JS
expect "two members: gunzipSync, Gunzip, pako, zlib" "$(node "$T/js/read.mjs" "$T/members.gz")" "100000 200000 200000 200000"
expect "eStargz: gunzipSync, Gunzip, pako, zlib" "$(node "$T/js/read.mjs" "$T/estargz.gz")" "0 200000 200000 200000"
