#!/usr/bin/env bash
# workers.sh BIN: kill -9 of the worker in the middle of a derivation: the attempt is counted, the next one goes on
# from the checkpoint, the rollout commits; and of the worker that serves, in the middle of an answer: the client
# gets the same answer as without. The agent itself never notices more than a line in its log.
set -u
AGENTS=gateway
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/watched.sh"

fleet_ready '' 'interval_s = 1'
log=$SCRATCH/gateway.log
write_recipe() {
    printf 'name: %s\ntype: %s\nmethod: %s\ngates: {dppl_percent: 400}\nrollout: {stages: [100], deadline_s: 500, trial_s: 1}\n' "$1" "$1" "$2"
}
write_recipe Q8_0 rtn >"$SCRATCH/first.yaml"
deploy "$SCRATCH/first.yaml" "$SCRATCH/first.json"
check "without a fault a rollout commits" [ $? -eq 0 ]
newest_worker() { pgrep -n -P "$(cat "$SCRATCH/gateway.pid")" -x tared-worker; }

# --- while it derives -----------------------------------------------------------------------------
start_unwatched client client gateway
write_recipe Q4_K search >"$SCRATCH/second.yaml"
deploy "$SCRATCH/second.yaml" "$SCRATCH/second.json" 2>/dev/null &
rollout=$!
# A checkpoint is due every few seconds, which this small model does not take: the worker is held until one is.
until_there() { # PATTERN: in the folder of unfinished variants
    for ((i = 0; i < 12000; i++)); do
        compgen -G "$SCRATCH/gateway/work/$1" >/dev/null && return 0
        sleep 0.005
    done
    return 1
}
until_there '*.part'
check "a derivation began" [ $? -eq 0 ]
kill -STOP "$(newest_worker)"
sleep 7
kill -CONT "$(newest_worker)"
until_there '*.state'
check "there is a checkpoint" [ $? -eq 0 ]
kill -9 "$(newest_worker)"
wait $rollout
check "the rollout commits" [ $? -eq 0 ]
check "with the predicted digest" is "$SCRATCH/second.json" '.state == "done" and .devices[0].variant == .devices[0].expected'
check "the attempt was counted" grep -q 'jobs: DERIVING: plan=2 attempt=2 fail-crash: .*signal 9' "$log"
check "the second one went on from the checkpoint" grep -qE 'derive: [1-9][0-9]* tensors were there already' "$log"
fleet_stop client
check "the old variant answered all along" answered gateway
check "the agent was never started again" [ ! -s "$SCRATCH/gateway.killed" ]

# --- while it serves ------------------------------------------------------------------------------
# ask FILE: one long answer, streamed
ask() {
    curl -sN -m 100 -H 'Content-Type: application/json' -o "$1" \
        -d '{"prompt": "Once upon a time there was", "max_tokens": 400, "temperature": 0, "stream": true}' "$(fleet_url gateway)/v1/completions"
}
text_of() { sed -n 's/^data: \({.*\)/\1/p' "$1" | jq -j '.choices[0].text'; }
ask "$SCRATCH/calm.sse"
killed=0
for round in 1 2 3; do
    rm -f "$SCRATCH/torn.sse"
    ask "$SCRATCH/torn.sse" &
    asked=$!
    for ((i = 0; i < 3000; i++)); do [ -s "$SCRATCH/torn.sse" ] && break; sleep 0.01; done
    kill -9 "$(newest_worker)" && kill -0 $asked 2>/dev/null && killed=$((killed + 1))
    wait $asked
    check "round $round: the answer came to its end" grep -q '^data: \[DONE\]' "$SCRATCH/torn.sse"
    check "round $round: it is the same $(text_of "$SCRATCH/torn.sse" | wc -c) bytes" [ "$(text_of "$SCRATCH/torn.sse")" = "$(text_of "$SCRATCH/calm.sse")" ]
done
check "the worker was killed in the middle of an answer" [ $killed -ge 1 ]
ask "$SCRATCH/next.sse"
check "the next request is answered" [ "$(text_of "$SCRATCH/next.sse")" = "$(text_of "$SCRATCH/calm.sse")" ]
check "each crash is in the controller's telemetry" \
    fleet_until 30 '[.records[] | select(.kind == "error") | .value.text | select(test("signal 9"))] | length >= 1' telemetry --limit 1000
settle_books gateway
check "no telemetry is lost, none counted twice" [ $? -eq 0 ]
say "$failures failures"
