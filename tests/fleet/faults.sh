#!/usr/bin/env bash
# faults.sh BIN: kill -9 of the agent in every job state, of the worker that derives, of the controller and of the
# broker in the middle of a rollout: each rollout still commits, the old variant answers all along (but while its
# own agent is dead), and no telemetry record is lost or counted twice.
set -u
AGENTS=server
. "$(dirname "$0")/common.sh"

fleet_ready '' 'interval_s = 1'
log=$SCRATCH/server.log

# write_recipe TYPE: a plan that differs from the last one
write_recipe() {
    printf 'name: %s\ntype: %s\nmethod: rtn\ngates: {dppl_percent: 400}\nrollout: {stages: [100], deadline_s: 300, trial_s: 1}\n' \
        "$1" "$1" >"$SCRATCH/recipe.yaml"
}

# start TYPE: begins a rollout; its number is in $number, what the log held before in $before
start() {
    write_recipe "$1"
    before=$(wc -l <"$log")
    number=$(fleet deploy "$SCRATCH/recipe.yaml" --model base.gguf --text gate.txt --json --quiet | jq -r .id)
}

# reached STATE SECONDS: the agent's log says so since start
reached() {
    local until=$((SECONDS + $2))
    while ! tail -n +$((before + 1)) "$log" | grep -q "jobs: $1:"; do
        [ $SECONDS -lt $until ] || return 1
        sleep 0.01
    done
}

# ends WORDS: the rollout of start commits
ends() {
    local status
    fleet rollout "$number" --wait --timeout 120 --json --quiet >"$SCRATCH/end.json"
    status=$?
    check "$1: the rollout commits" [ $status -eq 0 ]
    check "$1: with the predicted digest" is "$SCRATCH/end.json" '[.devices[] | .variant == .expected] | all'
}

answers() { curl -sS -m 20 -o /dev/null -H 'Content-Type: application/json' -d '{"prompt": "The sea", "max_tokens": 2}' -f "$(fleet_url server)/v1/completions"; }

start Q8_0
ends "without a fault"
types=(Q4_K Q5_K Q4_0 Q5_0 Q4_1 Q6_K IQ4_NL Q3_K)
states=(OFFERED ACCEPTED FETCHING VERIFYING DERIVING SELFTEST STAGED TRIAL)
for i in "${!states[@]}"; do
    start "${types[$i]}"
    check "agent: reached ${states[$i]}" reached "${states[$i]}" 60
    fleet_stop server KILL
    fleet_agent server '' ''
    wait_for 30 answers
    check "agent killed in ${states[$i]}: it answers again" answers
    ends "agent killed in ${states[$i]}"
done

# from here on the agent itself lives: not one request may fail
fleet_talks server "$TEXTS/en/search.txt"
start Q8_0
check "worker: reached DERIVING" reached DERIVING 60
# the worker that was started last is the one that derives
victim=$(pgrep -P "${FLEET_PID[server]}" -n)
kill -KILL "$victim"
ends "worker killed while it derives"

start Q4_K
check "controller: reached DERIVING" reached DERIVING 60
fleet_stop controller KILL
sleep 1
fleet_controller
ends "controller killed in the middle"

start Q5_K
check "broker: reached FETCHING" reached FETCHING 60
fleet_stop broker KILL
sleep 2
fleet_broker
ends "broker killed in the middle"

fleet_stop server-talk
check "the old variant answered all along" [ "$(grep -vc '^200$' "$SCRATCH/server-talk.log")" -eq 0 ]
check "and there were requests" [ "$(grep -c '^200$' "$SCRATCH/server-talk.log")" -gt 10 ]
# a sequence of a boot has no hole once everything was sent again
check "no telemetry record is lost" fleet_until 60 \
    '[.records | group_by(.epoch)[] | map(.seq) | unique | length == (max - min + 1) and min == 1] | all and length >= 9' \
    telemetry --limit 100000
check "no telemetry record is counted twice" fleet_holds '[.records[] | "\(.epoch) \(.seq)"] | length == (unique | length)' \
    telemetry --limit 100000
fleet telemetry --limit 100000 --json | jq -c '[.records | group_by(.epoch)[] | {epoch: .[0].epoch, records: length, last: (map(.seq) | max)}]'
say "$failures failures"
