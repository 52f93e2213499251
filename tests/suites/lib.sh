# Shared by the suite scripts. Each script sets NAME, then calls: results FILE KNOWN-text
# Result lines are "PASS|FAIL|HANG|SKIP name[: reason]".
CACHE=${SUITES_CACHE:-$HOME/.cache/trireme-tests/suites}
LIB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
HOST=${1:?usage: $0 HOST PORT}
PORT=${2:?usage: $0 HOST PORT}
NAME=$(basename "$0" .sh)
WORK=$CACHE/$NAME
mkdir -p "$WORK"

need() { command -v "$1" >/dev/null || { apt-get install -y -qq "${2:-$1}" >/dev/null; }; }

# gosrc MODULE@VERSION: a writable copy of a Go module (its tests come along) in $WORK/src
gosrc() {
  if [ ! -f "$WORK/src/.of-$(basename "$1")" ]; then
    rm -rf "$WORK/src"; local d
    d=$(cd "$WORK" && go mod download -json "$1" | python3 -c 'import json,sys; print(json.load(sys.stdin)["Dir"])')
    cp -r "$d" "$WORK/src"; chmod -R u+w "$WORK/src"; touch "$WORK/src/.of-$(basename "$1")"
  fi
}

# sdist PACKAGE VERSION: a PyPI source package unpacked in $WORK/src (no build, no dependencies)
sdist() {
  if [ ! -f "$WORK/src/.of-$1-$2" ]; then
    rm -rf "$WORK/src" "$WORK/dl"; mkdir -p "$WORK/src"
    pip download -q --no-binary "$1" --no-deps -d "$WORK/dl" "$1==$2"
    tar xzf "$WORK"/dl/*.tar.gz -C "$WORK/src" --strip-components=1; touch "$WORK/src/.of-$1-$2"
  fi
}

# venv PACKAGE...: a virtual environment in $WORK/venv with these packages
venv() {
  if [ "$(cat "$WORK/venv/.of" 2>/dev/null)" != "$*" ]; then
    rm -rf "$WORK/venv"; python3 -m venv "$WORK/venv"; "$WORK/venv/bin/pip" install -q "$@"; echo "$*" >"$WORK/venv/.of"
  fi
}

# debsrc PACKAGE VERSION: a Debian source package unpacked in $WORK/src (not patched, not built)
debsrc() {
  if [ ! -f "$WORK/src/.of-$1-$2" ]; then
    rm -rf "$WORK/src" "$WORK/dl"; mkdir -p "$WORK/src" "$WORK/dl"
    local s=/etc/apt/sources.list.d/suites-src.sources
    if ! grep -qs trixie $s; then
      local mirror; mirror=$(awk '/^URIs/{print $2; exit}' /etc/apt/sources.list.d/debian.sources)
      printf 'Types: deb-src\nURIs: %s\nSuites: bookworm bookworm-updates trixie\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' "$mirror" >$s
      apt-get update -qq
    fi
    (cd "$WORK/dl" && apt-get source -qq --download-only --tar-only "$1=$2" >/dev/null 2>&1) || true
    tar xf "$WORK"/dl/*.orig.tar.[gx]z -C "$WORK/src" --strip-components=1; touch "$WORK/src/.of-$1-$2"
  fi
}

# results FILE [KNOWN]: print the result lines, the count, and exit 0 iff nothing failed beyond KNOWN
# (KNOWN: one "name reason" a line; the name may end in *).
results() { KNOWN="${2:-}" python3 "$LIB/results.py" print "$1"; exit $?; }
