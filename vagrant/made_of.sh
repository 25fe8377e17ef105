# shellcheck shell=bash
# Caching of files below target/vm. Each file has a digest of its inputs beside it, and is made again when the digest of
# the inputs differs. To be sourced.

# Prints a digest of the given files.
made_of() { cat "$@" | sha256sum | cut -d ' ' -f 1; }

# Succeeds if $1 exists and was made of inputs with the digest $2.
is_made_of() { [[ -e $1 && -e $1.made-of && $(<"$1.made-of") == "$2" ]]; }

# Moves $1, made of inputs with the digest $3, to $2.
keep() {
  rm -rf "$2" "$2.made-of"
  mv "$1" "$2"
  echo "$3" >"$2.made-of"
}
