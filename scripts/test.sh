#!/usr/bin/env bash
# Lint, types and all tests, with the tools in .venv (made and filled when missing).
#
#   ./scripts/test.sh                            # everything
#   ./scripts/test.sh tests/test_prompts.py -v   # what follows goes to pytest
#
# Fails when a check fails, a test fails, or no test ran. As root on Debian it installs Chromium first,
# for the tests marked `browser`; where there is none, they are skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
prepare_environment requirements.txt tests/requirements.txt

install_browser() {
    local try
    command -v chromium >/dev/null && command -v chromedriver >/dev/null && return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "without chromium and chromedriver, the tests marked browser are skipped" >&2
        return 0
    fi
    echo "installing chromium and chromium-driver (half a minute)" >&2
    for try in 1 2 3; do
        { timeout 120 apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout 300 \
            apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=60 \
            chromium chromium-driver; } >/dev/null 2>&1 </dev/null && return 0
        sleep "$((5 * try))"
    done
    echo "warning: they could not be installed: the tests marked browser are skipped" >&2
}
install_browser

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
