#!/bin/sh
# Makes .venv with vigil and everything it needs, pinned and checked by hash. Instant when nothing changed.
set -eu
cd "$(dirname "$0")/.."

fail() { echo "vigil setup: $*" >&2; exit 1; }

# Prints the first Python that is new enough: $PYTHON, python3, then the newest by name.
find_python() {
    for candidate in "${PYTHON:-python3}" python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# Debian ships python3 without the parts that make a venv.
ensure_venv() {
    if "$1" -c 'import ensurepip, venv' 2>/dev/null; then return; fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "vigil setup: installing python3-venv" >&2
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install python3-venv >/dev/null
    fi
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$1 cannot make virtual environments; install the package python3-venv (sudo apt-get install python3-venv)"
}

stamp=$(cat requirements-dev.lock pyproject.toml deploy/setup.sh | sha256sum)
if [ "$(cat .venv/setup-stamp 2>/dev/null)" = "$stamp" ] && .venv/bin/python -c '' 2>/dev/null; then exit 0; fi

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && ! find_python >/dev/null && command -v apt-get >/dev/null; then
        echo "vigil setup: installing python3" >&2
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install python3 python3-venv >/dev/null
    fi
    python=$(find_python) || fail "needs Python 3.11 or newer; install it or set PYTHON=/path/to/python3"
    ensure_venv "$python"
    rm -rf .venv
    "$python" -m venv .venv
fi

echo "vigil setup: installing the pinned packages into .venv" >&2
rm -f .venv/setup-stamp
pip() { .venv/bin/python -m pip --quiet --disable-pip-version-check --no-input "$@"; }
pip install --require-hashes -r requirements-dev.lock
# What this project was called before: it would keep the command, and two names for it.
pip uninstall --yes vigil >/dev/null 2>&1 || :
pip install --no-build-isolation --no-deps --editable .
printf '%s\n' "$stamp" >.venv/setup-stamp
