#!/usr/bin/env bash
# Lint, types and all tests, with the tools in .venv (made and filled when missing).
#
#   ./scripts/test.sh                            # everything
#   ./scripts/test.sh tests/test_prompts.py -v   # what follows goes to pytest
#
# Fails when a check fails, a test fails, or no test ran.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
prepare_environment requirements.txt tests/requirements.txt

export HF_HUB_OFFLINE=1 WANDB_MODE=offline TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS=1 # pytest runs one process per core
export PYRIGHT_PYTHON_IGNORE_WARNINGS=1 # its look for a newer release needs the network

failed=()
run_check() {
    echo "== $*"
    "$VENV_PYTHON" -m "$@" || failed+=("$*")
}
run_check ruff check
run_check ruff format --check
run_check pyright --pythonpath "$VENV_PYTHON"

echo "== pytest"
summary="$(mktemp)"
trap 'rm -f "$summary"' EXIT
"$VENV_PYTHON" -m pytest -n auto --maxprocesses 8 --dist loadfile "$@" | tee "$summary" ||
    failed+=("pytest")
grep -Eq '[0-9]+ passed' "$summary" || failed+=("pytest: no test passed")

if [ "${#failed[@]}" -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
