#!/bin/sh
# Runs the tests of the model's rooms twice: with the oldest packages that pyproject.toml allows (.ci/constraints-floor.txt)
# and with the newest that the index has. PYTHON names the interpreters, in quotes if there are several:
#   make test-floor PYTHON="python3.10 python3.13"
# An interpreter that is not there is named and left out. The environments stay in .venv-floor-X.Y and .venv-ceiling-X.Y.
# torch is that of constraints.txt; TORCH names another release for both runs (on Linux the index may have a CUDA build only):
#   TORCH=2.6.0 make test-floor
set -eu
cd "$(dirname "$0")/.."
ROOMS="tests/vision tests/language tests/tuning tests/model tests/training tests/explorers tests/course/test_build.py \
tests/course/test_grade.py"
export PIP_DISABLE_PIP_VERSION_CHECK=1
RAN='' FAILED=''

say() { printf '[floor and ceiling] %s\n' "$*"; }

for python in ${PYTHON:-python3}; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version=
    if [ -z "$version" ]; then
        say "$python is not here: left out"
        continue
    fi
    for end in floor ceiling; do
        venv=.venv-$end-$version pins="-c constraints.txt"
        say "Python $version, $end: $venv"
        [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
        [ -z "${TORCH:-}" ] || { echo "torch==$TORCH" >"$venv/torch.txt" && pins="-c $venv/torch.txt"; }
        [ "$end" = ceiling ] || pins="$pins -c .ci/constraints-floor.txt"
        if "$venv/bin/python" -m pip install -q --upgrade --upgrade-strategy eager $pins . pytest pytest-timeout &&
            "$venv/bin/python" -m pip uninstall -q -y emrrg-kit && # the tests take the library of this folder
            "$venv/bin/python" -m pytest -q $ROOMS ${PYTEST_ARGS:-}; then
            RAN="$RAN $version ($end)"
        else
            FAILED="$FAILED $version ($end)"
        fi
    done
done
say "passed on Python:${RAN:- none}"
[ -z "$FAILED" ] || say "failed on Python:$FAILED"
[ -n "$RAN" ] && [ -z "$FAILED" ]
