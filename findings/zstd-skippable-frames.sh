#!/usr/bin/env bash
# A zstd stream that begins with a skippable frame is read as empty, without an error, by one of four calls of a library.
#
# pzstd, and every writer that puts a table of contents in front, begins a stream with a skippable frame; the format
# (RFC 8878) lets a decoder pass over it. Layers of images are compressed in that way.
# Seen: python-zstandard 0.25.0, read_to_iter(): the result is empty, no error; decompress(): an error about "4 bytes".
# Its stream_reader() and copy_stream() read the same stream right, and so does pyzstd 0.20.0.
# Needs: pzstd (Debian's package zstd), python3.
# shellcheck source=findings/common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
command -v pzstd > /dev/null || unavailable "pzstd"
python_packages zstandard==0.25.0 pyzstd==0.20.0

# Several frames of data; the number of lines makes the content compressible, and its size known.
seq 5000000 > "$T/data"
pzstd -q -p 2 -1 -k "$T/data" -o "$T/data.zst"
expect "first four bytes" "$(od -An -tx1 -N4 "$T/data.zst" | tr -d ' ')" "502a4d18"
size=$(stat -c %s "$T/data")

cat > "$T/read.py" <<'PY'
import sys, zstandard, pyzstd
packed = open(sys.argv[2], "rb").read()
decoder = zstandard.ZstdDecompressor()
read = {
    "iter": lambda: b"".join(decoder.read_to_iter(packed)),
    "reader": lambda: decoder.stream_reader(packed).read(),
    "decompress": lambda: decoder.decompress(packed),
    "pyzstd": lambda: pyzstd.decompress(packed),
}
try:
    print(len(read[sys.argv[1]]()))
except zstandard.ZstdError as error:
    print(error)
PY
expect "zstandard read_to_iter, bytes of $size" "$("$PYTHON" "$T/read.py" iter "$T/data.zst")" 0
expect "zstandard stream_reader, bytes" "$("$PYTHON" "$T/read.py" reader "$T/data.zst")" "$size"
expect "zstandard decompress" "$("$PYTHON" "$T/read.py" decompress "$T/data.zst")" \
  "decompression error: decompressed 0 bytes; expected 4"
expect "pyzstd, bytes" "$("$PYTHON" "$T/read.py" pyzstd "$T/data.zst")" "$size"
