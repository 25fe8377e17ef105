#!/usr/bin/env bash
# dockerfile-parse takes lines of a here-document for instructions: an image gets a base image that it has not.
#
# Here-documents are in the Dockerfile syntax since 1.4 (2022), and BuildKit reads them without a `# syntax=` line.
# Seen (dockerfile-parse 2.0.1): a here-document of COPY with a line that begins with FROM is a second stage, so
# `baseimage` is the name in that line and `is_multistage` is true. There is no error. docker-file-parser 1.0.7 (npm)
# does the same; dockerfile-ast 0.7.1 (npm) keeps the body with its instruction.
# Needs: python3, node.
# shellcheck source=findings/common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
python_packages dockerfile-parse==2.0.1
npm_packages docker-file-parser@1.0.7 dockerfile-ast@0.7.1

cat > "$T/Dockerfile" <<'EOF'
FROM debian:13
COPY <<MAIL /letter
FROM nobody
MAIL
CMD ["cat", "/letter"]
EOF

cat > "$T/read.py" <<'PY'
import sys
from dockerfile_parse import DockerfileParser
parser = DockerfileParser(fileobj=open(sys.argv[1], "r+b"))
print(parser.baseimage, parser.is_multistage)
PY
expect "dockerfile-parse: base image, several stages" "$("$PYTHON" "$T/read.py" "$T/Dockerfile")" "nobody True"

cat > "$T/js/read.mjs" <<'JS'
import fs from "node:fs";
import ast from "dockerfile-ast";
import parser from "docker-file-parser";
const text = fs.readFileSync(process.argv[2], "utf8");
console.log(parser.parse(text).map((each) => each.name).join(" "));
console.log(ast.DockerfileParser.parse(text).getInstructions().map((each) => each.getKeyword()).join(" "));
JS
expect "instructions by docker-file-parser" "$(node "$T/js/read.mjs" "$T/Dockerfile" | sed -n 1p)" "FROM COPY FROM MAIL CMD"
expect "instructions by dockerfile-ast" "$(node "$T/js/read.mjs" "$T/Dockerfile" | sed -n 2p)" "FROM COPY CMD"
