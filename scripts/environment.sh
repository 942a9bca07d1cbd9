# shellcheck shell=bash
# What start_server.sh and run_tests.sh share: the messages and the Python environment. Sourced with ROOT set, never run.

readonly EXIT_PYTHON=4 EXIT_FETCH=5
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '%s\n' "$*"; }

absolute() { if [[ $1 == /* ]]; then say "$1"; else say "$PWD/$1"; fi; } # PATH

die() { # CODE SENTENCE...
    printf '%s\n' "${@:2}" >&2
    exit "$1"
}

# .venv, or the directory that DICE_TALK_VENV names. In it, .installed-NAME is the text that the requirements file NAME
# had when it was installed, and .installing is there while something is being installed, or was when that was cut off.
VENV=$(absolute "${DICE_TALK_VENV:-$ROOT/.venv}")

# Makes the environment hold these requirements files. Where it does already, nothing is run and no network is needed.
prepare_environment() { # FILE...
    mkdir -p "$VENV" || die "$EXIT_PYTHON" "Cannot make the environment's directory $VENV."
    VENV=$(cd -P -- "$VENV" && pwd)
    if environment_holds "$@"; then return; fi
    exec 9<"$VENV"
    if command -v flock >/dev/null && ! flock -n 9; then
        say "Another run is preparing $VENV: waiting for it."
        flock 9
    fi
    if ! environment_holds "$@"; then
        if ! environment_is_sound; then make_environment; fi
        install_requirements "$@"
    fi
    exec 9<&-
}

environment_holds() { # FILE...
    local file
    environment_is_sound || return
    for file; do
        [[ "$(wanted "$file")" == "$(cat "$VENV/.installed-$file" 2>/dev/null)" ]] || return
    done
}

wanted() { cat "$ROOT/requirements_api.txt" "$ROOT/$1"; } # every other file builds on the first

# False for one that is half made or half filled, was made for another directory, or has lost its Python.
environment_is_sound() {
    [[ ! -e $VENV/.installing ]] && grep -qsF "$VENV/bin/python" "$VENV/bin/pip" &&
        "$VENV/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

make_environment() {
    local python
    if [[ -n "$(ls -A "$VENV")" ]]; then
        # Only what these scripts made is ever emptied.
        [[ $VENV == "$ROOT/.venv" ]] || compgen -G "$VENV/.install*" >/dev/null ||
            die "$EXIT_PYTHON" "$VENV holds other things, or an environment that cannot be used." \
                "DICE_TALK_VENV must name an environment made by these scripts, or an empty directory."
        say "$VENV is incomplete, was moved, or has lost its Python: making it anew."
    fi
    python=$(find_python) || exit
    say "Making the environment $VENV with $("$python" --version)."
    "$python" -m venv --clear "$VENV" || die "$EXIT_PYTHON" "Python could not make the environment $VENV; see above."
}

# Prints the Python to use: DICE_TALK_PYTHON, or the first of 3.11 to 3.13 (tried), or a newer one.
find_python() {
    local candidate version newer="" problem="No Python was found."
    local candidates=(python3 python3.13 python3.12 python3.11 python)
    if [[ -n ${DICE_TALK_PYTHON:-} ]]; then candidates=("$DICE_TALK_PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if [[ $version =~ ^(2\..*|3\.[0-9]|3\.10)$ ]]; then
            problem="$candidate is Python $version, which is too old."
        elif ! "$candidate" -c 'import ensurepip, venv' &>/dev/null; then
            problem="$candidate (Python $version) comes without venv and pip: on Debian and Ubuntu, apt install python3-venv."
        elif [[ $version =~ ^3\.1[123]$ ]]; then
            say "$candidate"
            return
        else
            newer=${newer:-$candidate}
        fi
    done
    [[ -n $newer ]] || die "$EXIT_PYTHON" "$problem" \
        "The service needs Python 3.11 or newer with venv and pip. If one is elsewhere: DICE_TALK_PYTHON=/path/to/python3 $0"
    say "$newer"
}

install_requirements() { # FILE...
    local file requirements=()
    rm -f "$VENV"/.installed-*
    touch "$VENV/.installing"
    for file; do requirements+=(-r "$ROOT/$file"); done
    if [[ ! -t 1 ]]; then requirements+=(--quiet); fi
    say "Installing $*: a minute or two, once."
    install_with_uv "${requirements[@]}" || {
        say "uv could not do it; trying pip, which takes longer."
        "$VENV/bin/python" -m pip install "${requirements[@]}"
    } || {
        rm -f "$VENV/.installing"
        die "$EXIT_FETCH" "Could not install $*; the lines above say why." \
            "The first start, and the first after a requirements file changed, need a network or a package mirror for pip."
    }
    for file; do wanted "$file" >"$VENV/.installed-$file"; done
    rm -f "$VENV/.installing"
}

install_with_uv() { # OPTION...
    local settings
    [[ -x $VENV/bin/uv ]] || "$VENV/bin/python" -m pip install --quiet --retries 1 uv 2>/dev/null || return
    mapfile -t settings < <(uv_settings)
    env "${settings[@]}" "$VENV/bin/uv" pip install --python "$VENV/bin/python" "$@"
}

# uv reads no pip configuration: what pip's says, as uv's environment variables, one a line. Those already set win.
uv_settings() {
    "$VENV/bin/python" -m pip config list | "$VENV/bin/python" -c '
import ast, os, sys

pip = {}
lines = [line.rstrip("\n").partition("=") for line in sys.stdin]
for section in ("global", "install", ":env:"):  # the later one wins, as in pip
    pip |= {key.removeprefix(section + "."): ast.literal_eval(value).split()
            for key, _, value in lines if key.startswith(section + ".")}
settings = {
    "UV_DEFAULT_INDEX": " ".join(pip.get("index-url", [])),
    "UV_INDEX": " ".join(pip.get("extra-index-url", [])),
    "UV_INDEX_STRATEGY": "unsafe-best-match" if "extra-index-url" in pip else "",  # as pip chooses
    "UV_FIND_LINKS": ",".join(pip.get("find-links", [])),
    "UV_INSECURE_HOST": " ".join(pip.get("trusted-host", [])),
    "SSL_CERT_FILE": " ".join(pip.get("cert", [])),
}
for name, value in settings.items():
    if value and name not in os.environ:
        print(f"{name}={value}")
'
}

# The preview engine's face model: nothing to do, and no network, once it is there.
fetch_face_model() { # DIRECTORY
    (cd -- "$ROOT" && "$VENV/bin/python" -m engines.preview.model fetch --dir "$1") ||
        die "$EXIT_FETCH" "The preview engine cannot work without its face model: fetching it needs a network, once."
}
