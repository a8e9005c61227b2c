# watched.sh: agents under a supervisor and under store_watch.c, and a client whose every request is on record;
# sourced after common.sh, before fleet_ready.
# shellcheck shell=bash
WATCH=$BIN/../lib/tests/store_watch.so
DEATHS=$SCRATCH/deaths
mkdir "$DEATHS"

# supervise NAME COMMAND...: starts it again whenever it was killed, as systemd would. When is in NAME.killed.
supervise() {
    local name=$1 child status stopping=
    shift
    trap 'stopping=1; kill -TERM $child 2>/dev/null' TERM
    while :; do
        LD_PRELOAD=$WATCH ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0" \
            STORE_WATCH_DEATHS=$DEATHS STORE_WATCH_LEDGER=$SCRATCH/$name.ledger "$@" &
        child=$!
        echo $child >"$SCRATCH/$name.pid"
        status=129
        while [ $status -gt 128 ] && kill -0 $child 2>/dev/null; do # a signal to us ends only the waiting
            wait $child
            status=$?
        done
        wait $child 2>/dev/null
        [ -z "$stopping" ] || exit $status
        echo "$EPOCHREALTIME killed $status" >>"$SCRATCH/$name.killed"
        sleep 0.2
    done
}
eval "$(declare -f fleet_start | sed '1s/fleet_start/start_unwatched/')"
fleet_start() {
    case $2 in
    */tared) start_unwatched "$1" supervise "$@" ;;
    *) start_unwatched "$@" ;;
    esac
}

# client NAME: asks for ever; NAME.asked holds: start, end, HTTP code, digest of the variant that answered.
client() {
    local from code model
    while :; do
        from=$EPOCHREALTIME
        code=$(curl -s -m 60 -o "$SCRATCH/$1.answer" -w '%{http_code}' -H 'Content-Type: application/json' \
            -d '{"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}' "$(fleet_url "$1" 2>/dev/null)/v1/completions")
        model=-
        [ "$code" != 200 ] || model=$(jq -r .model "$SCRATCH/$1.answer")
        echo "$from $EPOCHREALTIME $code $model" >>"$SCRATCH/$1.asked"
        sleep 0.1
    done
}

# answered NAME: every request that failed began or ended between a death of the agent and its first answer after it.
answered() {
    touch "$SCRATCH/$1.killed"
    awk 'FNR == NR { death[++deaths] = $1; next }
         $3 == 200 { if ($1 > good) good = $1; next }
         { last = 0
           for (i = 1; i <= deaths; i++) if (death[i] - 0.5 <= $2 && death[i] > last) last = death[i]
           if (last == 0 || good > last + 0.5) { print "failed outside of a restart:", $0; bad = 1 } }
         END { exit bad }' "$SCRATCH/$1.killed" "$SCRATCH/$1.asked"
}

# books NAME: every telemetry record that this agent made durable is in the controller's books, and none twice.
books() {
    fleet telemetry --device "${FLEET_ID[$1]}" --limit 100000 --json --quiet >"$SCRATCH/$1.books" || return 1
    jq -r '.records[] | "\(.epoch) \(.seq)"' "$SCRATCH/$1.books" | sort >"$SCRATCH/$1.there"
    [ -z "$(uniq -d "$SCRATCH/$1.there")" ] && [ -z "$(comm -23 "$SCRATCH/$1.made" "$SCRATCH/$1.there")" ]
}
# settle_books NAME: waits until that holds for everything made up to now.
settle_books() {
    sort -u "$SCRATCH/$1.ledger" >"$SCRATCH/$1.made"
    wait_for 90 books "$1" && return 0
    say "made: $(wc -l <"$SCRATCH/$1.made"), there: $(wc -l <"$SCRATCH/$1.there")," \
        "not there: $(comm -23 "$SCRATCH/$1.made" "$SCRATCH/$1.there" | head -n 5 | tr '\n' ',')" \
        "twice: $(uniq -d "$SCRATCH/$1.there" | head -n 5 | tr '\n' ',')"
    return 1
}
