#!/usr/bin/env bash
# Installs the test extra into .venv (made if it is missing) and runs the checks and the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
.venv/bin/ruff check .
.venv/bin/lint-imports --no-cache
# The slowest tests are named at the end: the whole run is to take less than fifteen minutes on two cores.
.venv/bin/python -m pytest -n 2 --dist=loadgroup --durations=50 --durations-min=5 "$@"
