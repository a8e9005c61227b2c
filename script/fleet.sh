# fleet.sh: a whole fleet on loopback: authority, broker, controller, agents; sourced after lib.sh by
# script/demo and tests/fleet. Everything lives in FLEET_FOLDER, everything started is stopped by fleet_close.
# shellcheck shell=bash

FLEET_NAME=demo
FLEET_CONTROLLER=controller
FLEET_PIDS=()     # of everything started
FLEET_AGENTS=()   # names, in the order of fleet_agent
declare -A FLEET_PID FLEET_ID

# fleet_open BIN FOLDER: where the programs are, and an empty folder for everything else.
fleet_open() {
    FLEET_BIN=$1 FLEET_FOLDER=$2
    mkdir -p "$FLEET_FOLDER/broker"
    chmod 700 "$FLEET_FOLDER"
    fleet_authority
}

# fleet_start NAME COMMAND...: in the background, its output in NAME.log.
fleet_start() {
    local name=$1
    shift
    "$@" >>"$FLEET_FOLDER/$name.log" 2>&1 </dev/null &
    FLEET_PID[$name]=$!
    FLEET_PIDS+=($!)
}

fleet_alive() { kill -0 "${FLEET_PID[$1]:-0}" 2>/dev/null && [ "${FLEET_PID[$1]:-0}" -gt 0 ]; }

# fleet_stop NAME [SIGNAL]: ends one of them and waits for it.
fleet_stop() {
    local pid=${FLEET_PID[$1]:-}
    [ -n "$pid" ] || return 0
    kill "-${2:-TERM}" "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    unset "FLEET_PID[$1]"
}

# fleet_close: stops everything; agents first, so that they say good-bye to the broker.
fleet_close() {
    local pid tries=0
    for pid in ${FLEET_PIDS[@]+"${FLEET_PIDS[@]}"}; do kill -TERM "$pid" 2>/dev/null; done
    while [ $tries -lt 50 ]; do
        tries=$((tries + 1))
        for pid in ${FLEET_PIDS[@]+"${FLEET_PIDS[@]}"}; do
            kill -0 "$pid" 2>/dev/null && sleep 0.1 && continue 2
        done
        break
    done
    for pid in ${FLEET_PIDS[@]+"${FLEET_PIDS[@]}"}; do kill -KILL "$pid" 2>/dev/null; done
    for pid in ${FLEET_PIDS[@]+"${FLEET_PIDS[@]}"}; do wait "$pid" 2>/dev/null; done
    FLEET_PIDS=()
}

# What is wrong, with the end of a log, and status 4.
fleet_fail() {
    local log=$FLEET_FOLDER/$2.log
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    [ -s "$log" ] && { printf -- '--- end of %s.log\n' "$2"; tail -n 15 "$log"; } >&2
    exit 4
}

# --- keys and certificates --------------------------------------------------------------------

fleet_authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=Tare $FLEET_NAME authority" \
        -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign,cRLSign' \
        -keyout "$FLEET_FOLDER/ca.key" -out "$FLEET_FOLDER/ca.crt" 2>"$FLEET_FOLDER/openssl.log" ||
        fleet_fail "openssl could not make the fleet's authority" openssl
    fleet_certificate broker localhost 'serverAuth' 'DNS:localhost,IP:127.0.0.1'
    fleet_certificate "$FLEET_CONTROLLER" "$FLEET_CONTROLLER" 'clientAuth' ''
}

# fleet_certificate FILE CN USAGE NAMES: FILE.key and FILE.crt, signed by the authority.
fleet_certificate() {
    local file=$FLEET_FOLDER/$1
    {
        echo 'basicConstraints=critical,CA:FALSE'
        echo 'keyUsage=critical,digitalSignature'
        echo "extendedKeyUsage=$3"
        [ -z "$4" ] || echo "subjectAltName=$4"
    } >"$file.ext"
    {
        openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" -keyout "$file.key" -out "$file.csr" &&
            openssl x509 -req -in "$file.csr" -CA "$FLEET_FOLDER/ca.crt" -CAkey "$FLEET_FOLDER/ca.key" -CAcreateserial \
                -days 30 -extfile "$file.ext" -out "$file.crt"
    } 2>"$FLEET_FOLDER/openssl.log" || fleet_fail "openssl could not make the certificate of $1" openssl
    rm -f "$file.csr" "$file.ext"
}

# --- broker -----------------------------------------------------------------------------------

# fleet_broker: Mosquitto with mutual TLS and the packaged access list, on a free port of loopback.
# Started again after fleet_stop broker it takes the same port.
fleet_broker() {
    local file program tries=0
    program=$(command -v mosquitto || echo /usr/sbin/mosquitto)
    [ -x "$program" ] || die "mosquitto is missing: script/setup installs it"
    while [ $tries -lt 5 ]; do
        tries=$((tries + 1))
        if [ -z "${FLEET_PORT:-}" ]; then
            free_port
            FLEET_PORT=$FREE_PORT
        fi
        for file in conf acl; do
            sed -e "s|@FOLDER@|$FLEET_FOLDER|; s|@PORT@|$FLEET_PORT|; s|@ADDRESS@|127.0.0.1|" \
                -e "s|@FLEET@|$FLEET_NAME|; s|@CONTROLLER@|$FLEET_CONTROLLER|" \
                "$ROOT/packaging/mosquitto.$file.in" >"$FLEET_FOLDER/$file"
        done
        # it is ours from start to end, so it keeps the user that made its key
        echo "user $(id -un)" >>"$FLEET_FOLDER/conf"
        fleet_start broker "$program" -c "$FLEET_FOLDER/conf"
        wait_for 5 fleet_broker_is_up && return 0
        fleet_alive broker && break
        FLEET_PORT=
    done
    fleet_fail "the broker does not start" broker
}

fleet_broker_is_up() { ! fleet_alive broker || listens "$FLEET_PORT"; }

# --- controller -------------------------------------------------------------------------------

# fleet_controller [LINES]: with further settings for [calibration].
fleet_controller() {
    local state=$FLEET_FOLDER/controller
    FLEET_STATE=$state
    mkdir -p "$state"
    if [ ! -f "$FLEET_FOLDER/controller.ini" ]; then
        cat >"$FLEET_FOLDER/controller.ini" <<INI
[fleet]
id = $FLEET_NAME
director_key = $FLEET_FOLDER/director.key
[controller]
state = $state
name = $FLEET_CONTROLLER
[broker]
host = localhost
port = $FLEET_PORT
ca = $FLEET_FOLDER/ca.crt
cert = $FLEET_FOLDER/$FLEET_CONTROLLER.crt
key = $FLEET_FOLDER/$FLEET_CONTROLLER.key
[http]
port = 0
token_file = $FLEET_FOLDER/api.token
web = $ROOT/controller/web
[artifacts]
port = 0
[calibration]
${1:-}
INI
    fi
    rm -f "$state/http.port" "$state/artifact.port"
    fleet_start controller "$FLEET_BIN/tare-controller" "$FLEET_FOLDER/controller.ini"
    wait_for 20 fleet_controller_is_settled
    fleet_alive controller && [ -s "$state/http.port" ] || fleet_fail "the controller does not start" controller
    local http artifacts
    http=$(cat "$state/http.port") artifacts=$(cat "$state/artifact.port")
    FLEET_URL=http://127.0.0.1:$http FLEET_ARTIFACTS=http://127.0.0.1:$artifacts
    # started again, it is found where it was
    sed -i -e "/^\[http\]/,/^\[/s/^port = 0/port = $http/; /^\[artifacts\]/,/^\[/s/^port = 0/port = $artifacts/" \
        "$FLEET_FOLDER/controller.ini"
}

fleet_controller_is_settled() {
    ! fleet_alive controller || { [ -s "$FLEET_STATE/http.port" ] && [ -s "$FLEET_STATE/artifact.port" ] && [ -s "$FLEET_FOLDER/api.token" ]; }
}

# tare fleet ..., against this controller
fleet() { "$FLEET_BIN/tare" fleet "$@" --controller "$FLEET_URL" --token-file "$FLEET_FOLDER/api.token"; }

# --- agents -----------------------------------------------------------------------------------

# fleet_agent NAME PLUGIN PATH [TELEMETRY LINES]: its identity, certificate and settings, then the daemon.
# FLEET_AGENT_BIN: the folder of its program where that is another one than FLEET_BIN.
fleet_agent() {
    local name=$1 folder=$FLEET_FOLDER/$1
    if [ ! -f "$folder.ini" ]; then
        mkdir -p "$folder"
        cat >"$folder.ini" <<INI
[fleet]
name = $FLEET_NAME
director_keys = $FLEET_FOLDER/director.key.pub
[broker]
host = localhost
port = $FLEET_PORT
ca = $FLEET_FOLDER/ca.crt
cert = $folder.crt
key = $folder.key
reconnect_most_s = 10
[controller]
url = $FLEET_ARTIFACTS
poll_s = 5
[agent]
state = $folder
[engine]
plugin = $2
${3:+path = $3}
threads = 1
[serve]
port = 0
context = 512
[telemetry]
${4:-}
INI
        FLEET_ID[$name]=$("${FLEET_AGENT_BIN:-$FLEET_BIN}/tared" --id "$folder.ini" 2>>"$folder.log") ||
            fleet_fail "$name cannot make its identity" "$name"
        fleet_certificate "$name" "${FLEET_ID[$name]}" 'clientAuth' ''
        FLEET_AGENTS+=("$name")
    fi
    rm -f "$folder/http.port"
    fleet_start "$name" "${FLEET_AGENT_BIN:-$FLEET_BIN}/tared" "$folder.ini"
}

# fleet_url NAME: where an agent serves.
fleet_url() { echo "http://127.0.0.1:$(cat "$FLEET_FOLDER/$1/http.port")"; }

# fleet_until SECONDS FILTER VERB...: polls `tare fleet VERB --json` until the jq filter is true of it.
fleet_until() {
    local seconds=$1 filter=$2
    shift 2
    wait_for "$seconds" fleet_holds "$filter" "$@"
}
fleet_holds() {
    local filter=$1
    shift
    fleet "$@" --json --quiet 2>/dev/null | jq -e "$filter" >/dev/null
}

# --- traffic ----------------------------------------------------------------------------------

# fleet_talk NAME FILE: asks an agent to continue one line of FILE after the other, for ever.
fleet_talk() {
    local url line body
    while :; do
        while IFS= read -r line; do
            [ ${#line} -ge 40 ] || continue
            url=$(fleet_url "$1" 2>/dev/null) || continue
            body=$(jq -cn --arg prompt "$line" '{prompt: $prompt, max_tokens: 8, temperature: 0}')
            if curl -sS -m 30 -o /dev/null -w '%{http_code}\n' -H 'Content-Type: application/json' -d "$body" "$url/v1/completions"; then
                sleep 0.05
            else
                sleep 1
            fi
        done <"$2"
    done
}

# fleet_talks NAME FILE: the same in the background; its HTTP codes are in NAME-talk.log.
fleet_talks() { fleet_start "$1-talk" fleet_talk "$1" "$2"; }
