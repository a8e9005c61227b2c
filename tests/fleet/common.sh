# common.sh: three agents with different plugins, ready for a rollout; sourced by the tests of this folder.
# shellcheck shell=bash
# $1 of the test: the folder of the programs.
export LC_ALL=C.UTF-8
# What the sanitizers say is judged at the end, from the logs: a program's status stays its own.
export LSAN_OPTIONS=${LSAN_OPTIONS:+$LSAN_OPTIONS:}exitcode=0
BIN=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
. "$here/../../script/lib.sh"
. "$ROOT/script/fleet.sh"
MODEL=$ROOT/models/tare-tiny/tare-tiny-f16.gguf
TEXTS=$ROOT/tests/data/text

for program in mosquitto openssl jq curl; do
    PATH=$PATH:/usr/sbin command -v $program >/dev/null || {
        say "skipped: $program is missing, script/setup installs it"
        exit 77
    }
done

failures=0
# check WORDS COMMAND...: one line; a failure is counted and told with what there is.
check() {
    local words=$1
    shift
    if "$@" >/dev/null; then
        say "ok: $words"
    else
        say "FAIL: $words"
        failures=$((failures + 1))
    fi
}
# is JSON-FILE FILTER: for check
is() { jq -e "$2" "$1"; }

SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/tare-fleet.XXXXXX")
conclude() {
    local status=$?
    trap - EXIT INT TERM
    if [ $failures -gt 0 ] || [ $status -ne 0 ]; then
        tail -n 12 "$SCRATCH"/{controller,gateway,server,laptop}.log 2>/dev/null
        [ $status -ne 0 ] || status=1
    fi
    fleet_close
    local log
    for log in $(grep -lE 'ERROR: (Address|Thread)|runtime error:' "$SCRATCH"/*.log); do
        say "$(basename "$log"):"
        sed -nE '/ERROR: (Address|Thread)/,/SUMMARY/p; /runtime error:/p' "$log" | head -n 80
        status=1
    done
    for log in $(grep -lE 'ERROR: Leak' "$SCRATCH"/*.log); do
        # On a busy machine the leak checker may fail to read a thread, and says so: what that thread holds looks lost.
        # A report without one frame of ours is shown only: what threads of libraries hold when a program is told to end
        # in the middle of a handshake. Unit tests, which end when they have closed everything, judge all of it.
        grep -q 'Unable to get registers' "$log" || ! sed -n '/ERROR: Leak/,/SUMMARY/p' "$log" |
            grep -qE ' in [A-Za-z0-9_]+ [^ ]*(protocol|hal|plugins|model|compress|agent|controller|cli)/[a-z0-9_]+\.[ch]:' || status=1
        sed -n '/ERROR: Leak/,/SUMMARY/p' "$log"
    done
    [ -n "${TARE_KEEP:-}" ] || rm -rf "$SCRATCH"
    exit $status
}
trap conclude EXIT
trap 'exit 130' INT TERM

# fleet_ready [CALIBRATION LINES] [TELEMETRY LINES]: broker, controller, three approved agents, a registered base and text.
fleet_ready() {
    local name fast=vnni slow=avx2
    [ "$(uname -m)" = x86_64 ] || fast=scalar slow=
    fleet_open "$BIN" "$SCRATCH"
    fleet_broker
    fleet_controller "${1:-drift = no}"
    for name in ${AGENTS:-gateway server laptop}; do
        case $name in
        gateway) fleet_agent gateway scalar '' "${2:-}" ;;
        server) fleet_agent server $fast '' "${2:-}" ;;
        laptop) fleet_agent laptop $fast "$slow" "${2:-}" ;;
        esac
    done
    for name in "${FLEET_AGENTS[@]}"; do
        fleet_until 60 ".devices[] | select(.id == \"${FLEET_ID[$name]}\" and .status == \"pending\")" devices ||
            fleet_fail "the controller does not see $name" "$name"
        fleet device "${FLEET_ID[$name]}" approve --name "$name" --quiet >/dev/null || exit 4
    done
    cp "$MODEL" "$SCRATCH/base.gguf"
    head -c 3000 "$TEXTS/en/heldout.txt" | iconv -c -f UTF-8 -t UTF-8 >"$SCRATCH/gate.txt"
    fleet models "$SCRATCH/base.gguf" "$SCRATCH/gate.txt" --quiet >/dev/null || exit 4
}

# recipe NAME SED-EXPRESSION: one of tests/data/recipes, changed for the test.
recipe() { sed -e "${2:-}" "$ROOT/tests/data/recipes/$1.yaml"; }

# deploy RECIPE OUT [OPTIONS]: follows it to its end; the status is tare's.
deploy() {
    local recipe=$1 out=$2
    shift 2
    fleet deploy "$recipe" --model base.gguf --text gate.txt --wait --timeout 400 --json "$@" >"$out"
}
