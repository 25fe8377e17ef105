#!/usr/bin/env bash
# The Docker SDK for Python reads `[^a]` in .dockerignore as the opposite of what Docker reads.
#
# The patterns of .dockerignore are those of Go's filepath.Match, in which `[^a]` is any one character but `a`.
# Seen (docker 7.2.0): with the line `[^a]` the context keeps `b` and loses `a`, since the pattern is translated by the
# rules of Python's fnmatch, where only `!` negates a class. A secret that the line should keep out is sent to the
# builder. @balena/dockerignore 1.0.2 (npm) keeps `a` and leaves `b` out.
# Needs: python3, node.
# shellcheck source=findings/common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
python_packages docker==7.2.0
npm_packages @balena/dockerignore@1.0.2

mkdir "$T/context"
touch "$T/context/a" "$T/context/b" "$T/context/long"
cat > "$T/read.py" <<'PY'
import sys
from docker.utils.build import exclude_paths
print(" ".join(sorted(exclude_paths(sys.argv[1], ["[^a]"]))))
PY
expect "docker for Python keeps" "$("$PYTHON" "$T/read.py" "$T/context")" "b long"
cat > "$T/js/read.mjs" <<'JS'
import ignore from "@balena/dockerignore";
const rules = ignore().add(["[^a]"]);
console.log(["a", "b", "long"].filter((path) => !rules.ignores(path)).join(" "));
JS
expect "@balena/dockerignore keeps" "$(node "$T/js/read.mjs")" "a long"
