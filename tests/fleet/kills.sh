#!/usr/bin/env bash
# kills.sh BIN: kill -9 of workers, broker, controller and of the agent in each state of its job; every rollout
# still ends right, the variant before answers all along, telemetry arrives once and whole.
set -u
. "$(dirname "$0")/common.sh"

fast=vnni
[ "$(uname -m)" = x86_64 ] || fast=scalar
fleet_open "$BIN" "$SCRATCH"
fleet_broker
fleet_controller 'drift = no'
fleet_agent server $fast '' 'interval_s = 1'
id=${FLEET_ID[server]}
fleet_until 60 ".devices[] | select(.id == \"$id\" and .status == \"pending\")" devices ||
    fleet_fail "the controller does not see the agent" server
fleet device "$id" approve --name server --quiet >/dev/null || exit 4
cp "$MODEL" "$SCRATCH/base.gguf"
head -c 3000 "$TEXTS/en/heldout.txt" | iconv -c -f UTF-8 -t UTF-8 >"$SCRATCH/gate.txt"
fleet models "$SCRATCH/base.gguf" "$SCRATCH/gate.txt" --quiet >/dev/null || exit 4

# variant MODE: a rollout of another variant in the background; its outcome is in MODE.json.
variant() {
    recipe balanced "/decode_tok_s/d; /rss_mib/d; /dppl_percent/d; s/kld_mean: .*/kld_mean: 5/; /top1/d; s/mode: .*/mode: $1/
        s/trial_s: .*/trial_s: 2/; s/deadline_s: .*/deadline_s: 400/" >"$SCRATCH/$1.yaml"
    seen=$(grep -c . "$SCRATCH/server.log")
    deploy "$SCRATCH/$1.yaml" "$SCRATCH/$1.json" &
    rollout=$!
}
# follow STATE: waits until the job has come to it, or past it, since the last variant or agent began.
states='OFFERED ACCEPTED FETCHING VERIFYING DERIVING SELFTEST STAGED TRIAL COMMITTED ROLLED_BACK FAILED'
follow() {
    local until=$((SECONDS + 100)) later=${states#*"$1"}
    until tail -n +"$((seen + 1))" "$SCRATCH/server.log" | grep -qE "jobs: ($1${later// /|}): plan"; do
        [ $SECONDS -lt $until ] || return 1
        sleep 0.02
    done
}
newest_worker() { pgrep -n -P "${FLEET_PID[server]}" -x tared-worker; }
ended() {
    wait "$rollout"
    check "$1: the rollout is done" is "$SCRATCH/$2.json" '.state == "done"'
    check "$1: the device committed what was predicted" is "$SCRATCH/$2.json" \
        '.devices[0].phase == "committed" and .devices[0].variant == .devices[0].expected'
}
talk() {
    while :; do
        curl -s -m 60 -o /dev/null -w '%{http_code}\n' -d '{"prompt": "Once upon a time", "max_tokens": 12}' "$1/v1/completions"
        sleep 0.05
    done
}
quiet() {
    fleet_stop talk
    check "$1: $(grep -c 200 "$SCRATCH/talk.log") requests answered, none not" \
        [ "$(grep -vc 200 "$SCRATCH/talk.log")" -eq 0 ]
    rm -f "$SCRATCH/talk.log"
}

variant balanced
ended "first variant" balanced

fleet_start talk talk "$(fleet_url server)"
variant accuracy
for state in DERIVING SELFTEST; do
    follow $state
    kill -9 "$(newest_worker)" && say "killed the worker in $state"
done
follow TRIAL
sleep 0.5
pid=$(newest_worker)
kill -9 "$pid" && say "killed the worker on trial"
ended "workers killed" accuracy
quiet "workers killed"

fleet_start talk talk "$(fleet_url server)"
variant compression
follow VERIFYING
fleet_stop broker KILL
sleep 1
fleet_broker
follow SELFTEST
fleet_stop controller KILL
sleep 1
# at the same addresses as before: agents keep theirs in their settings
sed -i -e "/^\[http\]/,/^\[/ s/^port = 0/port = ${FLEET_URL##*:}/" \
    -e "/^\[artifacts\]/,/^\[/ s/^port = 0/port = ${FLEET_ARTIFACTS##*:}/" "$SCRATCH/controller.ini"
fleet_controller
wait "$rollout"
fleet_until 200 '.rollouts[0].state == "done"' rollouts
check "broker and controller killed: the rollout is done" fleet_holds '.rollouts[0].state == "done"' rollouts
quiet "broker and controller killed"

variant balanced
for state in FETCHING VERIFYING DERIVING SELFTEST STAGED TRIAL; do
    follow $state || break
    fleet_stop server KILL
    say "killed the agent in $(grep 'jobs: ' "$SCRATCH/server.log" | tail -n 1 | sed 's/.*jobs: \([A-Z_]*\).*/\1/')"
    seen=$(grep -c . "$SCRATCH/server.log")
    fleet_agent server $fast ''
done
ended "agent killed in each state" balanced
check "it answers" wait_for 20 curl -sf -o /dev/null "$(fleet_url server)/health"
check "seven starts" [ "$(grep -c 'epoch=' "$SCRATCH/server.log")" -eq 7 ]

sleep 3
fleet telemetry --limit 100000 --json >"$SCRATCH/telemetry.json"
check "no record twice, none missing" is "$SCRATCH/telemetry.json" \
    '[.records[] | {epoch, seq}] | (length == (unique | length)) and
     ([group_by(.epoch)[] | (map(.seq) | max) == length] | all)'
say "$failures failures"
