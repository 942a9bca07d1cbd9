#!/usr/bin/env bash
# Runs all checks and tests, installing missing dependencies first.
#
# Usage: ./run_tests.sh                         run ruff, mypy, import-linter and all tests
#        ./run_tests.sh tests/http -k upload    run only pytest, with these arguments
#
# DICE_TALK_VENV and DICE_TALK_PYTHON: see ./start_server.sh help.
# Exit codes: that of pytest; 1 if only a check failed; 4 no suitable Python; 5 installation or download failed.

set -euo pipefail
ROOT=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
# shellcheck source=scripts/environment.sh
source "$ROOT/scripts/environment.sh"
cd -- "$ROOT"

failed=()

check() { # TOOL ARGUMENT...
    say "== $*"
    "$VENV/bin/python" -m "$@" || failed+=("$*")
}

# import-linter cannot be run as a module.
check_imports() {
    say "== lint-imports"
    "$VENV/bin/python" -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' ||
        failed+=("lint-imports")
}

prepare_environment requirements_api.txt requirements.txt requirements_dev.txt
fetch_face_model checkpoints/preview
if (($#)); then exec "$VENV/bin/python" -m pytest "$@"; fi

check ruff check .
check ruff format --check .
check mypy
check_imports
say "== pytest"
result=0
"$VENV/bin/python" -m pytest || result=$?
if ((${#failed[@]})); then
    printf 'Failed check: %s\n' "${failed[@]}" >&2
    if ((result == 0)); then result=1; fi
fi
exit "$result"
