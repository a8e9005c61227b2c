# lib.sh: what the scripts share; sourced, never run. Sets ROOT, the folder of the repository.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 4
}

# How many jobs this machine takes at once: its cores, but not more than one per 700 MB of memory
# (a compiler under the sanitizers wants that much).
jobs_here() {
    local cores memory
    cores=$(nproc 2>/dev/null || echo 2)
    memory=$(awk '/MemAvailable/ {print int($2 / 700000)}' /proc/meminfo 2>/dev/null || echo 2)
    [ "$memory" -ge 1 ] || memory=1
    [ "$cores" -le "$memory" ] && echo "$cores" || echo "$memory"
}

# build PRESET: configure when needed, then build; quiet unless it fails. The log stays beside it.
build() {
    local preset=$1 log
    log=$ROOT/build/$preset.log
    mkdir -p "$ROOT/build"
    if command -v ccache >/dev/null && [ -z "${CMAKE_C_COMPILER_LAUNCHER:-}" ]; then
        export CMAKE_C_COMPILER_LAUNCHER=ccache
    fi
    say "building preset $preset with $(jobs_here) jobs (log: build/$preset.log)"
    if ! (cd "$ROOT" && cmake --preset "$preset" && cmake --build --preset "$preset" -j "$(jobs_here)") >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        return 1
    fi
}

# free_port: a TCP port of loopback that nobody listens on. Each call in one run gives another one.
PORTS_GIVEN=" "
free_port() {
    local port tries=0
    while [ $tries -lt 200 ]; do
        tries=$((tries + 1))
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        case $PORTS_GIVEN in *" $port "*) continue ;; esac
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            PORTS_GIVEN="$PORTS_GIVEN$port "
            FREE_PORT=$port
            return 0
        fi
    done
    die "no free port between 20000 and 32000"
}

# wait_for SECONDS COMMAND...: true as soon as the command is, false after that long.
wait_for() {
    local until=$((SECONDS + $1))
    shift
    while ! "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $until ] || return 1
        sleep 0.2
    done
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
