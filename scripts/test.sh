#!/usr/bin/env bash
# All checks: style, types, documentation, tests. Arguments go to pytest: bash scripts/test.sh -k sampler
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"

step "Environment"
dwiml_setup test,docs

step "Style (ruff)"
# By folder: ruff would also format the README's script, which is written for reading.
ruff check dwiml tests scripts docs
ruff format --check dwiml tests scripts docs

step "Types (mypy)"
mypy

step "Documentation (Sphinx, warnings are errors)"
sphinx-build -q -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html
echo "Built: docs/_build/html/index.html"

step "Tests (pytest)"
# One thread: the tests' arrays are tiny, and sums over several threads are not the same to the last bit.
# In up to four processes, one for each core.
OMP_NUM_THREADS=1 MPLBACKEND=Agg python -m pytest -n auto --maxprocesses 4 --dist worksteal --durations=10 "$@"
