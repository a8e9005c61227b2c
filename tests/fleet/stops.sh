#!/usr/bin/env bash
# stops.sh BIN: SIGTERM at any time ends every program with status 0 and without a process left behind; whatever
# was in hand goes on at the next start; kill -9 of an agent takes its workers with it.
set -u
AGENTS='server laptop'
. "$(dirname "$0")/common.sh"
export TARE_TEST_RUN=$SCRATCH # by which our processes are told from all others

# left: names of our programs that are still there
left() {
    local entry
    for entry in /proc/[0-9]*; do
        if grep -qsz "^TARE_TEST_RUN=$SCRATCH$" "$entry/environ" 2>/dev/null; then
            case $(cat "$entry/comm" 2>/dev/null) in tare* | mosquitto) echo "$(cat "$entry/comm") ${entry#/proc/}" ;; esac
        fi
    done
}
nobody() { [ -z "$(left)" ]; }
no_worker() { ! left | grep -q tared-worker; }
# stops NAME [SIGNAL]: within 30 seconds, with status 0
stops() {
    local pid=${FLEET_PID[$1]} status
    kill "-${2:-TERM}" "$pid"
    (sleep 30 && kill -9 "$pid") 2>/dev/null &
    local guard=$!
    wait "$pid"
    status=$?
    pkill -P $guard 2>/dev/null
    kill $guard 2>/dev/null
    wait $guard 2>/dev/null
    unset "FLEET_PID[$1]"
    check "$1 ends by SIG${2:-TERM} with status 0${3:+ $3}" [ $status -eq 0 ]
}
answers() { curl -sf -m 30 -o /dev/null -d '{"prompt": "The sea", "max_tokens": 2}' "$(fleet_url "$1")/v1/completions"; }
write_recipe() {
    printf 'name: %s\ntype: %s\nmethod: %s\ngates: {dppl_percent: 400}\nrollout: {stages: [100], deadline_s: 500, trial_s: 1}\n' "$1" "$1" "$2"
}

fleet_ready '' 'interval_s = 1'
write_recipe Q8_0 rtn >"$SCRATCH/first.yaml"
deploy "$SCRATCH/first.yaml" "$SCRATCH/first.json" 2>/dev/null
check "a rollout commits" [ $? -eq 0 ]

for program in tared tared-worker tare-controller mosquitto; do
    check "$program is seen while it runs" grep -q "^$program " <(left)
done
for round in 1 2 3; do
    stops server TERM "in round $round"
    stops laptop INT "in round $round"
    check "and leaves no worker" no_worker
    stops controller TERM "in round $round"
    fleet_stop broker
    check "nothing of ours is left" nobody
    fleet_broker
    fleet_controller
    for name in $AGENTS; do fleet_agent "$name" '' ''; done
    for name in $AGENTS; do check "$name answers again" wait_for 60 answers "$name"; done
done

# --- with work in hand ----------------------------------------------------------------------------
ask() {
    curl -sN -m 100 -H 'Content-Type: application/json' -o "$1" \
        -d '{"prompt": "Once upon a time there was", "max_tokens": 300, "temperature": 0, "stream": true}' "$(fleet_url server)/v1/completions"
}
write_recipe Q4_K search >"$SCRATCH/second.yaml"
before=$(wc -l <"$SCRATCH/server.log")
number=$(fleet deploy "$SCRATCH/second.yaml" --model base.gguf --text gate.txt --json --quiet | jq -r .id)
derives() { tail -n +$((before + 1)) "$SCRATCH/server.log" | grep -q 'jobs: DERIVING:'; }
check "a derivation began" wait_for 60 derives
ask "$SCRATCH/asked.sse" &
asked=$!
for ((i = 0; i < 3000; i++)); do [ -s "$SCRATCH/asked.sse" ] && break; sleep 0.01; done
stops server TERM "while it derives and answers"
wait $asked
check "what it was answering was answered" grep -q '^data: \[DONE\]' "$SCRATCH/asked.sse"
stops laptop TERM "while it derives"
check "and leaves no worker" no_worker
stops controller TERM "in the middle of a rollout"
stops broker TERM
check "nothing of ours is left" nobody

# --- without a broker ------------------------------------------------------------------------------
fleet_controller
for name in $AGENTS; do fleet_agent "$name" '' ''; done
check "without a broker an agent answers" wait_for 60 answers server
fleet_agent_again() { "$BIN/tared" "$SCRATCH/server.ini" >/dev/null 2>"$SCRATCH/err"; }
fleet_agent_again
check "a second agent on the same state is refused" [ $? -eq 4 ]
check "in one line, with the reason" grep -q 'another agent' "$SCRATCH/err"
check "and no second one" [ "$(wc -l <"$SCRATCH/err")" -eq 1 ]
check "and the first one answers on" answers server
stops laptop TERM "without a broker"
stops controller TERM "without a broker"
fleet_agent laptop '' ''
sleep 0.1
stops laptop TERM "right after its start"

# --- and on it goes ---------------------------------------------------------------------------------
fleet_broker
fleet_controller
fleet_agent laptop '' ''
fleet rollout "$number" --wait --timeout 200 --json --quiet >"$SCRATCH/second.json"
check "the rollout that was interrupted commits" [ $? -eq 0 ]
check "with the predicted digest on both" is "$SCRATCH/second.json" '[.devices[] | .variant == .expected] | length == 2 and all'
kill -9 "${FLEET_PID[server]}"
wait "${FLEET_PID[server]}" 2>/dev/null
stops laptop
check "kill -9 of an agent takes its workers with it" wait_for 5 no_worker
stops controller
stops broker
check "nothing of ours is left" nobody
say "$failures failures"
