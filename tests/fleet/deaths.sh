#!/usr/bin/env bash
# deaths.sh BIN: one rollout in which the agent is killed right before and right after each transaction that takes
# its job a state further, sixteen deaths and one restart each: it still commits the predicted variant, the old one
# answers all along, and its telemetry is whole.
set -u
AGENTS=server
. "$(dirname "$0")/common.sh"
. "$(dirname "$0")/watched.sh"

fleet_ready '' 'interval_s = 1'
write_recipe() {
    printf 'name: %s\ntype: %s\nmethod: rtn\ngates: {dppl_percent: 400}\nrollout: {stages: [100], deadline_s: 500, trial_s: 1}\n' "$1" "$1"
}
write_recipe Q8_0 >"$SCRATCH/first.yaml"
deploy "$SCRATCH/first.yaml" "$SCRATCH/first.json"
check "without a fault a rollout commits" [ $? -eq 0 ]
old=$(jq -r '.devices[0].variant' "$SCRATCH/first.json")

rm -f "$SCRATCH"/server/blobs/* # so that there is something to fetch again
states='OFFERED ACCEPTED FETCHING VERIFYING DERIVING SELFTEST STAGED TRIAL'
for state in $states; do touch "$DEATHS/$state.before" "$DEATHS/$state.after"; done
start_unwatched client client server
write_recipe Q4_K >"$SCRATCH/second.yaml"
deploy "$SCRATCH/second.yaml" "$SCRATCH/second.json"
check "the rollout with sixteen deaths commits" [ $? -eq 0 ]
check "with the predicted digest" is "$SCRATCH/second.json" '.state == "done" and .devices[0].variant == .devices[0].expected'
for state in $states; do
    check "it was killed before and after $state" \
        [ "$(grep -cE "^store_watch: killed (before|after) $state$" "$SCRATCH/server.log")" -eq 2 ]
done
check "and was started once for each" [ "$(wc -l <"$SCRATCH/server.killed")" -eq 16 ]

new=$(jq -r '.devices[0].variant' "$SCRATCH/second.json")
check "the new variant answers in the end" wait_for 30 grep -q " 200 .*${new:0:16}" "$SCRATCH/server.asked"
fleet_stop client
check "requests failed only while the agent was dead" answered server
check "the old variant answered between the deaths" [ "$(grep -c " 200 .*${old:0:16}" "$SCRATCH/server.asked")" -ge 3 ]
check "no worker outlives its agent" [ "$(pgrep -c -P 1 -f "$BIN/tared-worker")" -eq 0 ]
settle_books server
check "no telemetry is lost, none counted twice" [ $? -eq 0 ]
check "of several starts" [ "$(cut -d' ' -f1 "$SCRATCH/server.made" | sort -u | wc -l)" -ge 2 ]
awk '$3 == 200 { ok++ } $3 != 200 { bad++ } END { printf "%d answered, %d while it was dead\n", ok, bad }' "$SCRATCH/server.asked"
say "$failures failures"
