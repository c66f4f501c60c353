# Sourced by the other scripts, in bash: gives step and dwiml_setup.
#
# step TITLE             Prints the title of the next step.
# dwiml_setup [EXTRAS]   Goes to the repository's root, makes the virtual environment .venv there, installs dwiml in it
#                        with the versions of constraints.txt, and puts it on PATH. EXTRAS: for example "test,docs".
#                        Does nothing if it is already installed.
# DWIML_PYTHON=/path/to/python3 chooses the Python of a new environment.

step() {
    echo
    echo "== $1"
}

_dwiml_fail() {
    echo "error: $1" >&2
    return 1
}

# The first Python >= 3.10 among the usual names.
_dwiml_find_python() {
    local candidate
    for candidate in ${DWIML_PYTHON:+"$DWIML_PYTHON"} python3 python python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            command -v "$candidate"
            return 0
        fi
    done
    _dwiml_fail "dwiml needs Python 3.10 or newer, and none is on PATH; install it, or give its path: DWIML_PYTHON=/path/to/python3."
}

# .venv works and was created in this folder: after a move or a copy, its commands point to the old place.
_dwiml_venv_runs() {
    .venv/bin/python -c '' >/dev/null 2>&1 && grep -qF "$PWD/.venv" .venv/bin/activate 2>/dev/null
}

_dwiml_make_venv() {
    local python module
    if _dwiml_venv_runs; then
        # It has no pip if its creation was interrupted, or if another tool created it.
        for module in "pip --version" "ensurepip"; do
            # shellcheck disable=SC2086
            if .venv/bin/python -m $module >/dev/null 2>&1; then
                return 0
            fi
        done
    fi
    python=$(_dwiml_find_python) || return 1
    if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        _dwiml_fail "$python lacks the venv module; install it (on Debian and Ubuntu: apt install python3-venv)."
        return 1
    fi
    echo "Creating the virtual environment .venv with $("$python" --version 2>&1)."
    "$python" -m venv --clear .venv || _dwiml_fail "the virtual environment $PWD/.venv could not be made."
}

# Show only pip's errors and the lines that explain what takes time.
_dwiml_pip_install() (
    set -o pipefail
    .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off "$@" 2> >(grep -v '^WARNING:' >&2) |
        sed -u -n -E -e 's/^ *Downloading ([^ ]+ \([0-9.]+ [MG]B\)).*/  downloading \1/p' \
            -e 's/^Installing collected packages.*/  unpacking/p'
)

dwiml_setup() {
    local root stamp=.venv/dwiml-installed wanted installed extras extra missing=""
    root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd) || return 1
    cd "$root" || return 1
    # The stamp has two lines: the checksum of the files that define the installation, and its extras.
    wanted=$(cat pyproject.toml constraints.txt | cksum) || return 1
    installed=$(sed -n 1p "$stamp" 2>/dev/null) || true
    extras=$(sed -n 2p "$stamp" 2>/dev/null) || true
    for extra in $(echo "${1:-}" | tr , ' '); do
        if [[ ",$extras," != *",$extra,"* ]]; then
            missing=yes
            extras="${extras:+$extras,}$extra"
        fi
    done
    if [ "$installed" != "$wanted" ] || [ -n "$missing" ] || ! _dwiml_venv_runs; then
        _dwiml_make_venv || return 1
        echo "Installing dwiml${extras:+ with its extras $extras} in .venv (only once; a few minutes, mostly for torch)."
        rm -f "$stamp"
        if ! _dwiml_pip_install -c constraints.txt -e ".${extras:+[$extras]}"; then
            _dwiml_fail "pip could not install dwiml (its message is above); run the same command again to retry."
            return 1
        fi
        # A script next to the clone would otherwise import the clone's folder, if it has the same name.
        printf '%s\n' "$root" >"$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dwiml-clone.pth"
        printf '%s\n' "$wanted" "$extras" >"$stamp"
    fi
    export VIRTUAL_ENV="$root/.venv"
    export PATH="$root/.venv/bin:$PATH"
}
