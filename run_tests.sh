#!/usr/bin/env bash
# Runs every check and test, in an environment that it completes itself.
#
# Usage: ./run_tests.sh                         ruff, mypy and all tests
#        ./run_tests.sh tests/http -k upload    these words to pytest, and pytest alone
#
# DICE_TALK_VENV and DICE_TALK_PYTHON mean what ./start_server.sh help says.
# Exit codes: pytest's; 1 when only a check failed; 4 no usable Python; 5 something could not be installed or fetched.

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

prepare_environment requirements_api.txt requirements.txt requirements_dev.txt
fetch_face_model checkpoints/preview
if (($#)); then exec "$VENV/bin/python" -m pytest "$@"; fi

check ruff check .
check ruff format --check .
check mypy
say "== pytest"
result=0
"$VENV/bin/python" -m pytest || result=$?
if ((${#failed[@]})); then
    printf 'Failed before the tests: %s\n' "${failed[@]}" >&2
    if ((result == 0)); then result=1; fi
fi
exit "$result"
