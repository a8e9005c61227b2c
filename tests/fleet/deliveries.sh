#!/usr/bin/env bash
# deliveries.sh BIN: the broker is killed again and again at random and the controller twice, in the middle of a
# rollout and under traffic: the rollout ends right, no request fails, every telemetry record that a device made
# durable is in the controller's books once, and every request is counted once.
set -u
AGENTS='server laptop'
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/watched.sh"

fleet_ready '' 'interval_s = 1'
write_recipe() {
    printf 'name: %s\ntype: %s\nmethod: %s\ngates: {dppl_percent: 400}\nrollout: {stages: [50, 100], deadline_s: 600, trial_s: 2}\n' "$1" "$1" "$2"
}
write_recipe Q8_0 rtn >"$SCRATCH/first.yaml"
deploy "$SCRATCH/first.yaml" "$SCRATCH/first.json"
check "without a fault a rollout commits" [ $? -eq 0 ]

for name in $AGENTS; do start_unwatched "$name-client" client "$name"; done
write_recipe Q4_K search >"$SCRATCH/second.yaml"
number=$(fleet deploy "$SCRATCH/second.yaml" --model base.gguf --text gate.txt --json --quiet | jq -r .id)
nap() { sleep $((RANDOM % ${1:-3})).$((RANDOM % 10)); }
for round in 1 2 3 4 5 6; do
    nap
    fleet_stop broker KILL
    nap 2
    if [ $((round % 3)) -eq 2 ]; then
        fleet_stop controller KILL
        nap 2
        fleet_controller
    fi
    fleet_broker
done
say "the broker was killed 6 times, the controller 2 times, the last time in: $(fleet rollout "$number" --json --quiet | jq -rc '[.state, .devices[].phase]')"
fleet rollout "$number" --wait --timeout 300 --json --quiet >"$SCRATCH/second.json"
check "the rollout commits" [ $? -eq 0 ]
check "on both devices, with the predicted digest" is "$SCRATCH/second.json" \
    '.state == "done" and ([.devices[] | .phase == "committed" and .variant == .expected] | length == 2 and all)'

# one more time while nothing but telemetry flows
fleet_stop broker KILL
nap
fleet_broker
nap
for name in $AGENTS; do
    fleet_stop "$name-client"
    check "$name answered every request" answered "$name"
    check "and was never started again" [ ! -s "$SCRATCH/$name.killed" ]
    settle_books "$name"
    check "no telemetry of $name is lost, none counted twice" [ $? -eq 0 ]
done

# The client that was stopped in the middle of a request did not hear its answer, the agent may have counted it.
counted() { fleet telemetry --device "${FLEET_ID[$1]}" --limit 100000 --json --quiet |
    jq '[.records[] | select(.kind == "sketch") | .value | select(.metric == "request_us") | .count] | add'; }
all_counted() {
    local heard
    heard=$(grep -c ' 200 ' "$SCRATCH/$1.asked")
    now_counted=$(counted "$1")
    [ "${now_counted:-0}" -ge "$heard" ] && [ "${now_counted:-0}" -le $((heard + 1)) ]
}
for name in $AGENTS; do
    wait_for 60 all_counted "$name"
    sleep 2
    check "every request of $name is counted once" all_counted "$name"
    say "$name: $(grep -c ' 200 ' "$SCRATCH/$name.asked") answered, $now_counted counted, $(wc -l <"$SCRATCH/$name.made") records"
done
say "$failures failures"
