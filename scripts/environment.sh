# Makes .venv and installs into it. Sourced by test.sh and quickstart.sh from the repository's root:
#
#   prepare_environment requirements.txt [more requirement files]    # then use "$VENV_PYTHON"
#
# A finished install leaves a stamp named by the hash of the requirement files, so the next call
# returns at once. An install that was interrupted is thrown away and done again.

VENV_DIR=".venv"
VENV_PYTHON="$VENV_DIR/bin/python"

find_python() {
    local candidate
    for candidate in python3 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
            2>/dev/null; then
            echo "$candidate"
            return 0
        fi
    done
    echo "error: no Python 3.10, 3.11 or 3.12 found (python3 is" \
        "$(python3 --version 2>/dev/null || echo missing)); install one and try again" >&2
    return 2
}

make_venv() {
    local python
    python="$(find_python)" || return 2
    echo "making $VENV_DIR with $("$python" --version)" >&2
    rm -rf "$VENV_DIR"
    if ! "$python" -m venv "$VENV_DIR"; then
        rm -rf "$VENV_DIR"
        echo "error: '$python -m venv' failed; on Debian and Ubuntu install python3-venv first" >&2
        return 2
    fi
}

hash_requirements() {
    "$VENV_PYTHON" - audiolm-trainer/requirements.txt "$@" <<'PYTHON'
import hashlib, pathlib, sys
digest = hashlib.sha256(sys.version.encode())
for name in sys.argv[1:]:
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest()[:16])
PYTHON
}

prepare_environment() {
    local stamp file
    local -a pip_arguments=()
    if [ -e "$VENV_DIR/installing" ] || ! "$VENV_PYTHON" -m pip --version >/dev/null 2>&1; then
        make_venv || return 2
    fi
    stamp="$VENV_DIR/installed-$(hash_requirements "$@")" || return 2
    [ -e "$stamp" ] && return 0

    for file in "$@"; do
        pip_arguments+=(-r "$file")
    done
    echo "installing $* into $VENV_DIR (some minutes the first time)" >&2
    touch "$VENV_DIR/installing"
    # One call for all files: a second one could replace the torch build that the first chose.
    if ! "$VENV_PYTHON" -m pip install --quiet --disable-pip-version-check "${pip_arguments[@]}"; then
        echo "error: the install failed (see above); the next run starts it afresh" >&2
        return 2
    fi
    touch "$stamp"
    rm "$VENV_DIR/installing"
}
