# Shared by the suite scripts, which end with: results FILE
# Result lines are "PASS|FAIL|HANG|SKIP name[: reason]".
CACHE=${SUITES_CACHE:-$HOME/.cache/trireme-tests/suites}
LIB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
HOST=${1:?usage: $0 HOST PORT}
PORT=${2:?usage: $0 HOST PORT}
NAME=$(basename "$0" .sh)
WORK=$CACHE/$NAME
mkdir -p "$WORK"

# gosrc MODULE@VERSION: a writable copy of a Go module (its tests come along) in $WORK/src
gosrc() {
  if [ ! -f "$WORK/src/.of-$(basename "$1")" ]; then
    rm -rf "$WORK/src"; local d
    d=$(cd "$WORK" && go mod download -json "$1" | python3 -c 'import json,sys; print(json.load(sys.stdin)["Dir"])')
    cp -r "$d" "$WORK/src"; chmod -R u+w "$WORK/src"; touch "$WORK/src/.of-$(basename "$1")"
  fi
}

# sdist PACKAGE VERSION: a PyPI source package unpacked in $WORK/src (no build, no dependencies); after venv
sdist() {
  if [ ! -f "$WORK/src/.of-$1-$2" ]; then
    rm -rf "$WORK/src" "$WORK/dl"; mkdir -p "$WORK/src"
    "$WORK/venv/bin/pip" download -q --no-binary "$1" --no-deps -d "$WORK/dl" "$1==$2"
    tar xzf "$WORK"/dl/*.tar.gz -C "$WORK/src" --strip-components=1; touch "$WORK/src/.of-$1-$2"
  fi
}

# venv PACKAGE...: a virtual environment in $WORK/venv with these packages
venv() {
  if [ "$(cat "$WORK/venv/.of" 2>/dev/null)" != "$*" ]; then
    rm -rf "$WORK/venv"; python3 -m venv "$WORK/venv"; "$WORK/venv/bin/pip" install -q "$@"; echo "$*" >"$WORK/venv/.of"
  fi
}

# results FILE: print the result lines, the count, and exit 0 iff nothing failed
results() { python3 "$LIB/results.py" print "$1"; exit $?; }
