#!/usr/bin/env bash
# Installs, starts and manages the DICE-Talk API.
#
# Usage: ./start_server.sh [COMMAND] [OPTION...]
# Default values are in parentheses.
#
# Commands
#   start      install missing dependencies, then run the service until Ctrl-C or SIGTERM (default)
#   stop       stop the running service
#   status     show whether the service is running, its URL and its engine
#   health     query the health endpoint
#   install    install or repair the environment without starting the service
#   download   download missing or damaged DICE-Talk weights; resumes interrupted downloads
#   demo       generate a video from the bundled example, starting the service temporarily if needed
#   help       show this help
#
# Options
#   --host HOST          listen address                            (server.host)
#   --port PORT          listen port                               (server.port)
#   --config FILE        configuration file                        (DICE_TALK_CONFIG or config/api_config.yaml)
#   --engine ENGINE      auto, dice_talk or preview                (synthesis.engine)
#   --output FILE        demo: output file                         (demo.mp4 in the current directory)
#   --emotions-url URL   download: base URL of the emotion priors  (the upstream repository)
#
# Environment
#   DICE_TALK_VENV           Python environment directory                       (.venv)
#   DICE_TALK_PYTHON         Python interpreter for creating the environment    (first suitable one on the PATH)
#   DICE_TALK_START_TIMEOUT  start: seconds to wait for the engine to load      (900)
#   DICE_TALK_STOP_TIMEOUT   stop: seconds to wait before killing the service   (tasks.shutdown_grace + 30)
#   DICE_TALK_SECTION__KEY   any setting, e.g. DICE_TALK_SERVER__PORT=9000
#   HF_TOKEN, HF_ENDPOINT    download: Hugging Face access token and mirror
#
# Exit codes
#   0  success: stopped, running or healthy
#   1  the service or the demo failed, or the service is unhealthy
#   2  invalid usage or configuration
#   3  the address is in use or unavailable, or the service is already running
#   4  no suitable Python
#   5  installation or download failed
#   6  engine setup failed, e.g. because of missing weights
#   7  the service is not running (status)
#   8  the GPU failed; the service must be restarted

set -euo pipefail
ROOT=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
# shellcheck source=scripts/environment.sh
source "$ROOT/scripts/environment.sh"

readonly EXIT_FAILED=1 EXIT_USAGE=2 EXIT_UNAVAILABLE=3 EXIT_ENGINE=6 EXIT_NOT_RUNNING=7 EXIT_GPU=8
# Line 1: PID; line 2: URL; line 3: tasks.shutdown_grace in seconds.
readonly PID_FILE=$ROOT/logs/server.pid
readonly START_TIMEOUT=${DICE_TALK_START_TIMEOUT:-900} STOP_TIMEOUT=${DICE_TALK_STOP_TIMEOUT:-}

# Command-line options to pass on.
server_options=() download_options=()
# From the settings, or from PID_FILE if the service is already running.
host="" port="" url="" checkpoints="" grace=30
# From the health endpoint; engine holds the configured engine until then.
state="" engine="" reason=""
# PID of a service started by another start_server.sh, and of one started by this script.
pid="" server=""
# Number of termination signals received by this script.
signals=0

# --- Commands ---------------------------------------------------------------------------------------------------------

command_start() {
    lock_checkout
    prepare
    launch
    print_summary
    say "Press Ctrl-C to stop."
    await_server
    say "Stopped."
}

command_stop() {
    local timeout deadline
    if ! find_running; then
        say "The service is not running."
        return
    fi
    timeout=${STOP_TIMEOUT:-$((grace + 30))} deadline=$((SECONDS + timeout))
    say "Stopping the service (PID $pid)."
    kill -TERM "$pid" || die "$EXIT_FAILED" "Cannot stop process $pid. It may belong to another user."
    while is_service "$pid"; do
        if ((SECONDS >= deadline)); then
            say "The service did not stop within $timeout s; killing it."
            kill -KILL "$pid" || true
            break
        fi
        sleep 0.1
    done
    rm -f "$PID_FILE"
    say "Stopped."
}

command_status() {
    find_running || die "$EXIT_NOT_RUNNING" "The service is not running."
    fetch_health || die "$EXIT_FAILED" "Process $pid is running, but $url is not responding. See logs/api.log."
    say "The service is running (PID $pid)."
    print_summary
}

command_health() {
    resolve_url
    no_proxy='*' "$VENV/bin/python" test_api.py health --url "$url"
}

command_install() {
    local stamp
    # An empty stamp forces a reinstallation.
    for stamp in "$VENV"/.installed-*; do
        if [[ -e $stamp ]]; then : >"$stamp"; fi
    done
    prepare
    say "All dependencies are installed in $VENV."
}

command_download() {
    prepare_environment requirements_api.txt
    read_settings
    prepare_environment requirements_api.txt requirements.txt
    exec "$VENV/bin/python" -m engines.dice_talk.checkpoints download --dir "$checkpoints" "${download_options[@]}"
}

command_demo() {
    local result=0 demo
    trap on_signal INT TERM HUP
    resolve_url
    if ! fetch_health; then
        lock_checkout
        prepare
        launch
    fi
    say "Generating a video from the bundled example at $url (engine: $engine)."
    no_proxy='*' "$VENV/bin/python" test_api.py --url "$url" --output "$output" &
    demo=$!
    wait "$demo" || result=$EXIT_FAILED
    if ((signals)); then kill "$demo" 2>/dev/null || true; fi
    if [[ -n $server ]]; then stop_server; fi
    return "$result"
}

command_help() { sed -n '2,/^$/s/^# \{0,1\}//p' "$ROOT/start_server.sh"; }

# --- Installation -----------------------------------------------------------------------------------------------------

# Installs the dependencies of the configured engine and reads the settings.
prepare() {
    prepare_environment requirements_api.txt
    read_settings
    if [[ $engine == dice_talk ]] || gpu_present; then prepare_environment requirements_api.txt requirements.txt; fi
    if [[ $engine != dice_talk ]]; then fetch_face_model "${checkpoints:-checkpoints}/preview"; fi
}

gpu_present() { nvidia-smi -L &>/dev/null || [[ -e /dev/nvidia0 || -e /proc/driver/nvidia/version ]]; }

# --- Running the service ----------------------------------------------------------------------------------------------

# Allows one service per checkout. The lock is inherited by the service and released when both processes have exited, so
# it cannot become stale.
lock_checkout() {
    if find_running; then
        die "$EXIT_UNAVAILABLE" "The service is already running (PID $pid, $url). Stop it with ./start_server.sh stop."
    fi
    mkdir -p checkpoints uploads outputs logs
    exec 8<logs
    # The timeout covers a service that is just exiting.
    if command -v flock >/dev/null && ! flock -w 3 8; then
        die "$EXIT_UNAVAILABLE" "Another start_server.sh is running in this directory. Try again after it has exited."
    fi
}

# Starts the service and waits until its engine is loaded or has failed to load.
launch() {
    check_port
    { : >"$PID_FILE.new"; } 2>/dev/null ||
        die "$EXIT_FAILED" "Cannot write to $ROOT/logs. Check its permissions and the free disk space."
    # More OpenBLAS threads would compete with the rendering threads.
    export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1}
    trap on_signal INT TERM HUP
    trap on_exit EXIT
    say "Starting the service."
    (
        # The service installs its own SIGINT handler and keeps ignoring SIGHUP; on_signal sends SIGTERM instead.
        trap '' INT HUP
        exec "$VENV/bin/python" -m api.server "${server_options[@]}" </dev/null
    ) &
    server=$!
    if ((signals)); then kill -TERM "$server" || true; fi
    # Wait for exec: `stop` recognizes the service by its command line.
    for _ in {1..50}; do
        if is_service "$server"; then break; fi
        sleep 0.02 || true
    done
    printf '%s\n' "$server" "$url" "$grace" >"$PID_FILE.new"
    # Ctrl-C also terminates mv.
    mv -f "$PID_FILE.new" "$PID_FILE" || true
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
except (OSError, UnicodeError) as error:
    if getattr(error, "errno", None) == errno.EADDRINUSE:
        sys.exit(f"Port {port} is already in use. Use another port, e.g. ./start_server.sh --port {port % 65535 + 1}")
    reason = getattr(error, "strerror", None) or error
    sys.exit(f"Cannot listen on {host} port {port}: {reason}.")
' "$host" "$port" || exit "$EXIT_UNAVAILABLE"
}

await_engine() {
    local deadline=$((SECONDS + START_TIMEOUT)) loading=""
    while ((signals == 0 && SECONDS < deadline)) && kill -0 "$server" 2>/dev/null; do
        if fetch_health; then
            if [[ $state != starting ]]; then break; fi
            if [[ -z $loading ]]; then say "The service is listening at $url; loading the engine."; fi
            loading=yes
        fi
        # Ctrl-C also terminates sleep.
        sleep 0.1 || true
    done
    if ((signals)) || ! kill -0 "$server" 2>/dev/null; then
        await_server
        say "Stopped."
        if [[ $command == demo ]]; then exit "$EXIT_FAILED"; fi
        exit 0
    fi
    case $state in
        "") stop_server && die "$EXIT_FAILED" "No response from the service within $START_TIMEOUT s. See logs/api.log." ;;
        setup_failed) stop_server && die "$EXIT_ENGINE" "Engine setup failed: $reason" ;;
    esac
}

# Ctrl-C in a terminal reaches the whole process group, including the service. A second signal would make the service
# abort its running tasks, so SIGTERM is sent only if the service is not already shutting down.
on_signal() {
    local deadline=$((SECONDS + 5))
    signals=$((signals + 1))
    if [[ -z $server ]]; then return 0; fi
    if ((signals > 1)); then
        kill -KILL "$server" 2>/dev/null || true
        return 0
    fi
    # Writing fails if the terminal was closed.
    say "Stopping the service. Press Ctrl-C again to kill it." || true
    until fetch_health || ((SECONDS >= deadline)) || ! kill -0 "$server" 2>/dev/null; do sleep 0.1 || true; done
    case $state in
        draining | gpu_failed) ;;
        *) kill -TERM "$server" 2>/dev/null || true ;;
    esac
}

# Stops the service whenever this script exits.
on_exit() {
    if [[ -n $server ]]; then kill -TERM "$server" 2>/dev/null || true; fi
}

# Waits for the service to exit. Returns after a requested clean shutdown, otherwise exits with the matching exit code.
await_server() {
    local code
    # A signal interrupts `wait`.
    while true; do
        code=0
        wait "$server" || code=$?
        kill -0 "$server" || break
    done 2>/dev/null
    server=""
    rm -f "$PID_FILE" || true
    if ((signals > 1)); then die "$EXIT_FAILED" "Killed. Interrupted tasks run again at the next start."; fi
    if ((signals == 1)); then return; fi
    case $code in
        # 143: terminated by SIGTERM.
        0 | 143) ;;
        "$EXIT_USAGE" | "$EXIT_UNAVAILABLE") exit "$code" ;;
        "$EXIT_GPU") die "$EXIT_GPU" "The service exited because the GPU failed. See logs/api.log, then restart it." ;;
        *) die "$EXIT_FAILED" "The service exited unexpectedly (exit code $code). See logs/api.log." ;;
    esac
}

stop_server() {
    if ((signals == 0)); then kill -TERM "$server" 2>/dev/null || true; fi
    await_server
}

# --- Finding and querying the service ---------------------------------------------------------------------------------

# Sets pid, url and grace from PID_FILE. Fails, and deletes a stale PID_FILE, if the service is not running.
find_running() {
    local lines=()
    if [[ ! -e $PID_FILE ]]; then return 1; fi
    mapfile -t lines <"$PID_FILE"
    if [[ ${lines[0]-} =~ ^[0-9]+$ ]] && is_service "${lines[0]}"; then
        pid=${lines[0]} url=${lines[1]-} grace=${lines[2]:-$grace}
        return
    fi
    say "Removing stale PID file $PID_FILE."
    rm -f "$PID_FILE"
    return 1
}

# Whether the process is a service of this checkout.
is_service() { # PID
    local command_line
    if [[ -r /proc/$1/cmdline ]]; then
        command_line=$(tr '\0' ' ' <"/proc/$1/cmdline") || return
        if [[ -r /proc/$1/cwd && ! /proc/$1/cwd -ef $ROOT ]]; then return 1; fi
    else
        command_line=$(ps -p "$1" -o args=) || return
    fi 2>/dev/null
    [[ $command_line == *api.server* ]]
}

# Sets url to that of the running service, or to the configured one if options are given or no service is running.
resolve_url() {
    if ((${#server_options[@]} == 0)) && find_running; then return; fi
    requirements_installed requirements_api.txt || prepare
    read_settings
}

# Reads the effective settings. Reports invalid configuration and exits.
read_settings() {
    local response
    response=$("$VENV/bin/python" -m api.options "${server_options[@]}") || exit
    mapfile -t response <<<"$response"
    host=${response[0]} port=${response[1]} engine=${response[2]} checkpoints=${response[3]} grace=${response[4]}
    case $host in
        0.0.0.0) url=http://127.0.0.1:$port ;;
        ::) url="http://[::1]:$port" ;;
        *:*) url="http://[$host]:$port" ;;
        *) url=http://$host:$port ;;
    esac
}

# Sets state, engine and reason from the health endpoint. Fails if the service does not respond.
fetch_health() {
    local response
    response=$("$VENV/bin/python" -I -c '
import json, sys, urllib.request

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
with opener.open(sys.argv[1] + "/api/health", timeout=5) as response:
    health = json.load(response)
for key in ("state", "engine", "reason"):
    print(*str(health[key] or "").split())
' "$url" 2>/dev/null) || return
    mapfile -t response <<<"$response"
    state=${response[0]} engine=${response[1]} reason=${response[2]:-}
}

print_summary() {
    say ""
    say "DICE-Talk API"
    say "  state     $state"
    say "  service   $url"
    say "  docs      $url/docs"
    say "  health    $url/api/health"
    say "  engine    $engine"
    if [[ -n $reason ]]; then say "            $reason"; fi
    if [[ $engine == preview ]]; then
        say "            Videos carry a PREVIEW badge. See README.md for the requirements of DICE-Talk."
    fi
    say ""
}

# --- Command line -----------------------------------------------------------------------------------------------------

usage() { die "$EXIT_USAGE" "$1 Run ./start_server.sh help for usage."; }

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
        *) usage "Unknown option: $1." ;;
    esac
    if [[ -z ${2-} ]]; then usage "Option $1 requires a value."; fi
    case $1 in
        --config) server_options+=("$1" "$(absolute "$2")") ;;
        --output) output=$(absolute "$2") ;;
        --emotions-url) download_options+=("$1" "$2") ;;
        *) server_options+=("$1" "$2") ;;
    esac
    shift 2
done
for seconds in "$START_TIMEOUT" "${STOP_TIMEOUT:-0}"; do
    [[ $seconds =~ ^[0-9]+$ ]] ||
        usage "DICE_TALK_START_TIMEOUT and DICE_TALK_STOP_TIMEOUT must be whole seconds, not \"$seconds\"."
done
if [[ -n ${DICE_TALK_CONFIG:-} ]]; then DICE_TALK_CONFIG=$(absolute "$DICE_TALK_CONFIG"); fi
# As PID 1 of a container, the script would ignore SIGTERM without a trap.
trap 'exit 143' TERM
trap 'exit 130' INT
cd -- "$ROOT"
case $command in
    start | stop | status | health | install | download | demo | help) "command_$command" ;;
    *) usage "Unknown command: $command." ;;
esac
