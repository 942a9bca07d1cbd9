#!/usr/bin/env bash
# Installs, starts and looks after the DICE-Talk API.
#
# Usage: ./start_server.sh [COMMAND] [OPTION...]
#
# Commands
#   start      install what is missing, start the service, stay until Ctrl-C or TERM (default)
#   stop       stop the running service
#   status     say whether the service runs, where, and with which engine
#   health     ask the service how it is
#   install    install or repair the environment, start nothing
#   download   fetch DICE-Talk's checkpoints, or those that are missing or damaged; goes on where it was cut off
#   demo       make a video of the shipped example, with the running service or with one of its own
#   help       show this
#
# Options
#   --host HOST        address to listen on         (otherwise config/api_config.yaml decides)
#   --port PORT        port to listen on            (the same)
#   --config FILE      another configuration file
#   --engine ENGINE    auto, dice_talk or preview
#   --output FILE      where demo puts its video    (demo.mp4 in the current directory)
#   --emotions-url URL where download finds the emotion priors (otherwise where they were published)
#
# Environment
#   DICE_TALK_VENV             directory of the Python environment                (.venv)
#   DICE_TALK_PYTHON           the Python to make it with                         (the first that will do)
#   DICE_TALK_START_TIMEOUT    seconds that start waits for the engine            (900)
#   DICE_TALK_STOP_TIMEOUT     seconds that stop waits before it kills            (tasks.shutdown_grace + 30)
#   DICE_TALK_SECTION__KEY     any setting, such as DICE_TALK_SERVER__PORT=9000
#   HF_TOKEN, HF_ENDPOINT      for download: access token and mirror of the Hugging Face hub
#
# Exit codes
#   0  done: stopped cleanly, running, healthy
#   1  the service or the demo failed, or the service is not healthy
#   2  wrong usage or a wrong setting
#   3  the address is taken or unusable, or this checkout's service runs already
#   4  no usable Python
#   5  something could not be installed or fetched
#   6  the engine could not be set up, for missing checkpoints for instance
#   7  no service runs (status)
#   8  the GPU failed, and only another start can use it again

set -euo pipefail
ROOT=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
# shellcheck source=scripts/environment.sh
source "$ROOT/scripts/environment.sh"

readonly EXIT_FAILED=1 EXIT_USAGE=2 EXIT_TAKEN=3 EXIT_ENGINE=6 EXIT_NOT_RUNNING=7 EXIT_GPU=8
readonly PID_FILE=$ROOT/logs/server.pid # the service's process, and its URL on the second line
readonly START_TIMEOUT=${DICE_TALK_START_TIMEOUT:-900} STOP_TIMEOUT=${DICE_TALK_STOP_TIMEOUT:-}

options=()                         # for the service, from the command line
sources=()                         # for download, from the command line
host="" port="" url="" pid=""      # where the service listens; its process, when another start_server.sh started it
grace=30                           # seconds that the settings give running tasks when the service is stopped
state="" engine="" reason=""       # what the service says about itself
checkpoints=""                     # where the settings say that models lie
server=""                          # the service's process, when this script started it
signals=0                          # how often this script was told to end

# --- Commands ---------------------------------------------------------------------------------------------------------

command_start() {
    claim_checkout
    prepare
    launch
    describe_service
    say "Ctrl-C stops it."
    await_server
    say "Stopped."
}

command_stop() {
    local timeout deadline
    if ! find_running; then
        say "No service of this checkout is running."
        return
    fi
    timeout=${STOP_TIMEOUT:-$((grace + 30))} deadline=$((SECONDS + timeout))
    say "Stopping the service (process $pid)."
    kill -TERM "$pid" || die "$EXIT_FAILED" "Process $pid belongs to somebody else."
    while is_service "$pid"; do
        if ((SECONDS >= deadline)); then
            say "It has not ended within $timeout s: killing it."
            kill -KILL "$pid" || true
            break
        fi
        sleep 0.1
    done
    rm -f "$PID_FILE"
    say "Stopped."
}

command_status() {
    find_running || die "$EXIT_NOT_RUNNING" "No service of this checkout is running."
    ask_health || die "$EXIT_FAILED" "Process $pid is there, but nothing answers at $url. logs/api.log may say why."
    say "Running as process $pid."
    describe_service
}

command_health() {
    find_address
    no_proxy='*' "$VENV/bin/python" test_api.py health --url "$url"
}

command_install() {
    local stamp
    for stamp in "$VENV"/.installed-*; do # emptied, so that the installer looks again
        if [[ -e $stamp ]]; then : >"$stamp"; fi
    done
    prepare
    say "Everything is installed in $VENV."
}

command_download() {
    prepare_environment requirements_api.txt
    read_address
    prepare_environment requirements_api.txt requirements.txt
    exec "$VENV/bin/python" -m engines.dice_talk.checkpoints download --dir "$checkpoints" "${sources[@]}"
}

command_demo() {
    local result=0 demo
    trap on_signal INT TERM HUP
    find_address
    if ! ask_health; then
        claim_checkout
        prepare
        launch
    fi
    say "Making a video of the shipped example at $url, engine $engine."
    no_proxy='*' "$VENV/bin/python" test_api.py --url "$url" --output "$output" &
    demo=$!
    wait "$demo" || result=$EXIT_FAILED
    if ((signals)); then kill "$demo" 2>/dev/null || true; fi
    if [[ -n $server ]]; then stop_server; fi
    return "$result"
}

command_help() { sed -n '2,/^$/s/^# \{0,1\}//p' "$ROOT/start_server.sh"; }

# --- Installing -------------------------------------------------------------------------------------------------------

# Installs what the service needs; on the way it learns from the settings where the service will listen.
prepare() {
    prepare_environment requirements_api.txt
    read_address
    if [[ $engine == dice_talk ]] || gpu_present; then prepare_environment requirements_api.txt requirements.txt; fi
    if [[ $engine != dice_talk ]]; then fetch_face_model "${checkpoints:-checkpoints}/preview"; fi
}

gpu_present() { nvidia-smi -L &>/dev/null || [[ -e /dev/nvidia0 || -e /proc/driver/nvidia/version ]]; }

# --- The service this script starts -----------------------------------------------------------------------------------

# One service to a checkout. The lock ends with this script and its service, however they end, so it is never stale.
claim_checkout() {
    if find_running; then
        die "$EXIT_TAKEN" "The service of this checkout runs already: process $pid, $url. ./start_server.sh stop ends it."
    fi
    mkdir -p checkpoints uploads outputs logs
    exec 8<logs
    if command -v flock >/dev/null && ! flock -w 3 8; then # a moment, for one that is just ending
        die "$EXIT_TAKEN" "Another start_server.sh is at work in this checkout."
    fi
}

# Starts the service and waits until its engine is loaded, or has proved not to be loadable.
launch() {
    check_port
    { : >"$PID_FILE.new"; } 2>/dev/null || die "$EXIT_FAILED" "Cannot write to $ROOT/logs: is it read-only, or the disk full?"
    export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1} # more of them would only spin beside the renderer's threads
    trap on_signal INT TERM HUP
    trap on_exit EXIT
    say "Starting the service."
    (
        trap '' INT HUP # until the service handles them itself, they are for on_signal
        exec "$VENV/bin/python" -m api.server "${options[@]}" </dev/null
    ) &
    server=$!
    if ((signals)); then kill -TERM "$server" || true; fi
    for _ in {1..50}; do # until the child has become Python, which `stop` will look for
        if is_service "$server"; then break; fi
        sleep 0.02 || true
    done
    printf '%s\n' "$server" "$url" "$grace" >"$PID_FILE.new"
    mv -f "$PID_FILE.new" "$PID_FILE" || true # Ctrl-C ends it too
    await_engine
}

check_port() {
    "$VENV/bin/python" -c '
import errno, socket, sys

host, port = sys.argv[1], int(sys.argv[2])
try:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
except (OSError, UnicodeError) as problem:
    if getattr(problem, "errno", None) == errno.EADDRINUSE:
        sys.exit(f"Port {port} is taken by another program. Choose another: ./start_server.sh --port {port % 65535 + 1}")
    reason = getattr(problem, "strerror", None) or problem
    sys.exit(f"The service cannot listen on {host}, port {port}: {reason}.")
' "$host" "$port" || exit "$EXIT_TAKEN"
}

await_engine() {
    local deadline=$((SECONDS + START_TIMEOUT)) loading=""
    while ((signals == 0 && SECONDS < deadline)) && kill -0 "$server" 2>/dev/null; do
        if ask_health; then
            if [[ $state != starting ]]; then break; fi
            if [[ -z $loading ]]; then say "The service is up at $url; its engine is loading."; fi
            loading=yes
        fi
        sleep 0.1 || true # Ctrl-C ends it too
    done
    if ((signals)) || ! kill -0 "$server" 2>/dev/null; then
        await_server
        say "Stopped."
        if [[ $command == demo ]]; then exit "$EXIT_FAILED"; fi
        exit 0
    fi
    case $state in
        "") stop_server && die "$EXIT_FAILED" "The service has not answered within $START_TIMEOUT s. logs/api.log may say why." ;;
        setup_failed) stop_server && die "$EXIT_ENGINE" "The engine could not be set up. $reason" ;;
    esac
}

# Ctrl-C in a terminal, and whatever else is sent to the whole process group, has reached the service too; it would end
# at once, its tasks cut short, on a second signal. So it is asked first whether it knows.
on_signal() {
    local deadline=$((SECONDS + 5))
    signals=$((signals + 1))
    if [[ -z $server ]]; then return 0; fi
    if ((signals > 1)); then
        kill -KILL "$server" 2>/dev/null || true
        return 0
    fi
    say "Stopping the service; a second Ctrl-C kills it." || true # the terminal may be gone
    until ask_health || ((SECONDS >= deadline)) || ! kill -0 "$server" 2>/dev/null; do sleep 0.1 || true; done
    case $state in
        draining | gpu_failed) ;; # it ends already
        *) kill -TERM "$server" 2>/dev/null || true ;;
    esac
}

# However this script ends, its service ends too.
on_exit() {
    if [[ -n $server ]]; then kill -TERM "$server" 2>/dev/null || true; fi
}

# Waits for the end of the service. Returns when it was wished for and clean, otherwise exits with the code that says why.
await_server() {
    local code
    while true; do # a signal ends `wait` too
        code=0
        wait "$server" || code=$?
        kill -0 "$server" || break
    done 2>/dev/null
    server=""
    rm -f "$PID_FILE" || true
    if ((signals > 1)); then die "$EXIT_FAILED" "Killed. Tasks that were running begin anew at the next start."; fi
    if ((signals == 1)); then return; fi
    case $code in
        0 | 143) ;; # 143: ended by TERM
        "$EXIT_USAGE" | "$EXIT_TAKEN") exit "$code" ;;
        "$EXIT_GPU") die "$EXIT_GPU" "The service ended because the GPU failed; start it again. logs/api.log says more." ;;
        *) die "$EXIT_FAILED" "The service ended by itself, with code $code. logs/api.log may say why." ;;
    esac
}

stop_server() {
    if ((signals == 0)); then kill -TERM "$server" 2>/dev/null || true; fi
    await_server
}

# --- The service, wherever it was started -----------------------------------------------------------------------------

# Sets pid and url from the pid file, if that names a service of this checkout that runs; else false.
find_running() {
    local written=()
    if [[ ! -e $PID_FILE ]]; then return 1; fi
    mapfile -t written <"$PID_FILE" # process, URL, shutdown grace
    if [[ ${written[0]-} =~ ^[0-9]+$ ]] && is_service "${written[0]}"; then
        pid=${written[0]} url=${written[1]-} grace=${written[2]:-$grace}
        return
    fi
    say "Removing $PID_FILE: its process has gone."
    rm -f "$PID_FILE"
    return 1
}

is_service() { # PID
    local words
    if [[ -r /proc/$1/cmdline ]]; then
        words=$(tr '\0' ' ' <"/proc/$1/cmdline") || return
        if [[ -r /proc/$1/cwd && ! /proc/$1/cwd -ef $ROOT ]]; then return 1; fi
    else
        words=$(ps -p "$1" -o args=) || return
    fi 2>/dev/null
    [[ $words == *api.server* ]]
}

# The address of the running service, or else the one that options and settings name.
find_address() {
    if ((${#options[@]} == 0)) && find_running; then return; fi
    environment_holds requirements_api.txt || prepare
    read_address
}

# Asks the settings, which say themselves what is wrong with them.
read_address() {
    local answer
    answer=$("$VENV/bin/python" -m api.options "${options[@]}") || exit
    mapfile -t answer <<<"$answer"
    host=${answer[0]} port=${answer[1]} engine=${answer[2]} checkpoints=${answer[3]} grace=${answer[4]}
    case $host in
        0.0.0.0) url=http://127.0.0.1:$port ;;
        ::) url="http://[::1]:$port" ;;
        *:*) url="http://[$host]:$port" ;;
        *) url=http://$host:$port ;;
    esac
}

# Asks the service for its state, engine and reason. False when no such service answers.
ask_health() {
    local answer
    answer=$("$VENV/bin/python" -I -c '
import json, sys, urllib.request

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
with opener.open(sys.argv[1] + "/api/health", timeout=5) as answer:
    health = json.load(answer)
for key in ("state", "engine", "reason"):
    print(*str(health[key] or "").split())
' "$url" 2>/dev/null) || return
    mapfile -t answer <<<"$answer"
    state=${answer[0]} engine=${answer[1]} reason=${answer[2]:-}
}

describe_service() {
    say ""
    say "The DICE-Talk API is $state."
    say "  service   $url"
    say "  docs      $url/docs"
    say "  health    $url/api/health"
    say "  engine    $engine"
    if [[ -n $reason ]]; then say "            $reason"; fi
    if [[ $engine == preview ]]; then
        say "            Its videos are labelled previews; README.md says what DICE-Talk itself needs."
    fi
    say ""
}

# --- The command line -------------------------------------------------------------------------------------------------

usage() { die "$EXIT_USAGE" "$1 ./start_server.sh help shows what there is."; }

command=start output=$PWD/demo.mp4
if [[ ${1:-} =~ ^[a-z] ]]; then
    command=$1
    shift
fi
while (($#)); do
    if [[ $1 == --*=* ]]; then set -- "${1%%=*}" "${1#*=}" "${@:2}"; fi
    case $1 in
        --host | --port | --config | --engine | --output | --emotions-url) ;;
        -h | --help)
            command=help
            break
            ;;
        *) usage "There is no option $1." ;;
    esac
    if [[ -z ${2-} ]]; then usage "$1 needs a value."; fi
    case $1 in
        --config) options+=("$1" "$(absolute "$2")") ;;
        --output) output=$(absolute "$2") ;;
        --emotions-url) sources+=("$1" "$2") ;;
        *) options+=("$1" "$2") ;;
    esac
    shift 2
done
for seconds in "$START_TIMEOUT" "${STOP_TIMEOUT:-0}"; do
    [[ $seconds =~ ^[0-9]+$ ]] || usage "DICE_TALK_START_TIMEOUT and DICE_TALK_STOP_TIMEOUT are whole seconds, not $seconds."
done
if [[ -n ${DICE_TALK_CONFIG:-} ]]; then DICE_TALK_CONFIG=$(absolute "$DICE_TALK_CONFIG"); fi
# As the first process of a container, this script would not hear TERM at all without a trap.
trap 'exit 143' TERM
trap 'exit 130' INT
cd -- "$ROOT"
case $command in
    start | stop | status | health | install | download | demo | help) "command_$command" ;;
    *) usage "There is no command $command." ;;
esac
