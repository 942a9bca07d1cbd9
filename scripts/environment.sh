# shellcheck shell=bash
# Shared by start_server.sh and run_tests.sh: messages and the Python environment. Must be sourced with ROOT set.

readonly EXIT_PYTHON=4 EXIT_FETCH=5
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '%s\n' "$*"; }

absolute() { if [[ $1 == /* ]]; then say "$1"; else say "$PWD/$1"; fi; } # PATH

die() { # CODE MESSAGE...
    printf '%s\n' "${@:2}" >&2
    exit "$1"
}

# Python environment directory. .installed-NAME in it holds the content of the requirements file NAME as installed;
# .installing exists during an installation and remains if it is interrupted.
VENV=$(absolute "${DICE_TALK_VENV:-$ROOT/.venv}")

# Installs the requirements files, creating the environment if necessary. Works offline if they are installed already.
prepare_environment() { # FILE...
    mkdir -p "$VENV" || die "$EXIT_PYTHON" "Cannot create the environment directory $VENV."
    VENV=$(cd -P -- "$VENV" && pwd)
    if requirements_installed "$@"; then return; fi
    exec 9<"$VENV"
    if command -v flock >/dev/null && ! flock -n 9; then
        say "Waiting for another process that is preparing $VENV."
        flock 9
    fi
    if ! requirements_installed "$@"; then
        if ! environment_is_valid; then create_environment; fi
        install_requirements "$@"
    fi
    exec 9<&-
}

requirements_installed() { # FILE...
    local file
    environment_is_valid || return
    for file; do
        [[ "$(stamp_content "$file")" == "$(cat "$VENV/.installed-$file" 2>/dev/null)" ]] || return
    done
}

# Every other requirements file includes requirements_api.txt.
stamp_content() { cat "$ROOT/requirements_api.txt" "$ROOT/$1"; } # FILE

# Fails if the environment is incomplete, was moved, or has no working Python.
environment_is_valid() {
    [[ ! -e $VENV/.installing ]] && grep -qsF "$VENV/bin/python" "$VENV/bin/pip" &&
        "$VENV/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

create_environment() {
    local python
    if [[ -n "$(ls -A "$VENV")" ]]; then
        # Never clear a directory that these scripts did not create.
        [[ $VENV == "$ROOT/.venv" ]] || compgen -G "$VENV/.install*" >/dev/null ||
            die "$EXIT_PYTHON" "$VENV contains other files or an unusable environment." \
                "Set DICE_TALK_VENV to an empty directory or to an environment created by these scripts."
        say "$VENV is incomplete, was moved, or has no working Python; recreating it."
    fi
    python=$(find_python) || exit
    say "Creating the environment $VENV with $("$python" --version)."
    "$python" -m venv --clear "$VENV" || die "$EXIT_PYTHON" "Could not create $VENV; see the output above."
}

# Prints the Python to use: DICE_TALK_PYTHON, or the first of 3.11 to 3.13 (the tested versions), or a newer one.
find_python() {
    local candidate version newer="" problem="No Python interpreter found."
    local candidates=(python3 python3.13 python3.12 python3.11 python)
    if [[ -n ${DICE_TALK_PYTHON:-} ]]; then candidates=("$DICE_TALK_PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if [[ $version =~ ^(2\..*|3\.[0-9]|3\.10)$ ]]; then
            problem="$candidate is Python $version, which is too old."
        elif ! "$candidate" -c 'import ensurepip, venv' &>/dev/null; then
            problem="$candidate (Python $version) lacks venv or pip. On Debian and Ubuntu: apt install python3-venv"
        elif [[ $version =~ ^3\.1[123]$ ]]; then
            say "$candidate"
            return
        else
            newer=${newer:-$candidate}
        fi
    done
    [[ -n $newer ]] || die "$EXIT_PYTHON" "$problem" \
        "Python 3.11 or newer with venv and pip is required. To use another one: DICE_TALK_PYTHON=/path/to/python3 $0"
    say "$newer"
}

install_requirements() { # FILE...
    local file requirements=()
    rm -f "$VENV"/.installed-*
    touch "$VENV/.installing"
    for file; do requirements+=(-r "$ROOT/$file"); done
    if [[ ! -t 1 ]]; then requirements+=(--quiet); fi
    say "Installing $*. This may take a few minutes."
    install_with_uv "${requirements[@]}" || {
        say "Installation with uv failed; retrying with pip."
        "$VENV/bin/python" -m pip install "${requirements[@]}"
    } || {
        rm -f "$VENV/.installing"
        die "$EXIT_FETCH" "Could not install $*; see the output above." \
            "Installation requires network access or a package mirror configured for pip."
    }
    for file; do stamp_content "$file" >"$VENV/.installed-$file"; done
    rm -f "$VENV/.installing"
}

install_with_uv() { # OPTION...
    local settings
    [[ -x $VENV/bin/uv ]] || "$VENV/bin/python" -m pip install --quiet --retries 1 uv 2>/dev/null || return
    mapfile -t settings < <(uv_settings)
    env "${settings[@]}" "$VENV/bin/uv" pip install --python "$VENV/bin/python" "$@"
}

# Prints pip's configuration as environment variables for uv, one per line, except for variables that are already set.
uv_settings() {
    "$VENV/bin/python" -m pip config list | "$VENV/bin/python" -c '
import ast, os, sys

pip = {}
lines = [line.rstrip("\n").partition("=") for line in sys.stdin]
# Later sections take precedence, as in pip.
for section in ("global", "install", ":env:"):
    pip |= {key.removeprefix(section + "."): ast.literal_eval(value).split()
            for key, _, value in lines if key.startswith(section + ".")}
settings = {
    "UV_DEFAULT_INDEX": " ".join(pip.get("index-url", [])),
    "UV_INDEX": " ".join(pip.get("extra-index-url", [])),
    # The way pip selects among several indexes.
    "UV_INDEX_STRATEGY": "unsafe-best-match" if "extra-index-url" in pip else "",
    "UV_FIND_LINKS": ",".join(pip.get("find-links", [])),
    "UV_INSECURE_HOST": " ".join(pip.get("trusted-host", [])),
    "SSL_CERT_FILE": " ".join(pip.get("cert", [])),
}
for name, value in settings.items():
    if value and name not in os.environ:
        print(f"{name}={value}")
'
}

# Downloads the face model of the preview engine unless it is present.
fetch_face_model() { # DIRECTORY
    (cd -- "$ROOT" && "$VENV/bin/python" -m engines.preview.model fetch --dir "$1") ||
        die "$EXIT_FETCH" "Could not download the face model of the preview engine. Check the network connection."
}
