# shellcheck shell=bash
# What is kept below target/vm, and when it is made anew: when what it was made of is another. Beside each thing is a
# file with a digest of that. To be sourced.

# A digest of the files.
made_of() { cat "$@" | sha256sum | cut -d ' ' -f 1; }

# Whether the thing $1 is there, made of what has the digest $2.
is_made_of() { [[ -e $1 && -e $1.made-of && $(<"$1.made-of") == "$2" ]]; }

# Puts $1, made of what has the digest $3, at $2.
keep() {
  rm -rf "$2" "$2.made-of"
  mv "$1" "$2"
  echo "$3" >"$2.made-of"
}
