# shellcheck shell=bash
# Reads the Debian archive that this machine's apt sources name, without touching the machine's own lists: lists and
# cache are in a directory of the caller. To be sourced.

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# Prints Debian's code name of the running system: bookworm, trixie.
debian_release() {
  # shellcheck source=/dev/null
  (. /etc/os-release && [[ $ID == debian ]] && printf '%s\n' "$VERSION_CODENAME")
}

# Prints the address of the archive; fails if apt has no source of Debian.
debian_site() {
  local site
  # shellcheck disable=SC2016 # expanded by apt
  site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sort -u)
  [[ -n $site && -e $KEYRING ]] && printf '%s\n' "${site%%$'\n'*}"
}

# Sets PRIVATE to the options that make an apt tool use only the directory $1.
private_options() {
  PRIVATE=(-q -o Dir::Etc::sourcelist="$1/sources.list" -o Dir::Etc::sourceparts=-
    -o Dir::State::lists="$1/lists" -o Dir::Cache="$1/cache" -o Dir::Cache::pkgcache=pkgcache.bin -o Acquire::Languages=none
    -o APT::Sandbox::User=root -o APT::Get::List-Cleanup=0 -o Dpkg::Use-Pty=0)
}

# Runs the apt tool $2 in the directory $1.
private_apt() {
  local PRIVATE dir=$1 tool=$2
  shift 2
  private_options "$dir"
  "$tool" "${PRIVATE[@]}" "$@"
}

# Downloads the lists of the suites $2... into the directory $1, unless they are less than an hour old.
archive_lists() {
  local dir=$1 site sources
  shift
  site=$(debian_site) || { echo "no archive of Debian among apt's sources (has apt-get update run?)" >&2; return 1; }
  sources=$(printf "deb [signed-by=$KEYRING] $site %s main\n" "$@")
  if [[ -n $(find "$dir/sources.of-lists" -mmin -60 2>/dev/null) && $(<"$dir/sources.of-lists") == "$sources" ]]; then
    return
  fi
  mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
  rm -f "$dir/sources.of-lists"
  echo "$sources" >"$dir/sources.list"
  private_apt "$dir" apt-get update --error-on=any >&2 && cp "$dir/sources.list" "$dir/sources.of-lists"
}
