#!/usr/bin/env bash
# refusals.sh BIN: forged, stale and impossible plans, published by a stock MQTT client to a running agent; plugins
# that are unsigned, altered, of another ABI, crash or hang; damaged models; recipes that cannot be meant. Each is
# refused with its reason, and the device stays as it was.
set -u
AGENTS=server
. "$(dirname "$0")/common.sh"
command -v mosquitto_pub >/dev/null || {
    say "skipped: mosquitto_pub is missing, script/setup installs it"
    exit 77
}
log=$SCRATCH/server.log
sabotage=$BIN/../lib/tare/sabotage

# --- a folder of plugins, most of them bad ------------------------------------------------------
plugins=$SCRATCH/plugins
mkdir "$plugins"
cp "$BIN"/../lib/tare/plugins/*.so* "$plugins/"
for name in goodspare badversion badcrash badhang; do cp "$sabotage/$name.so" "$sabotage/$name.so.minisig"* "$plugins/"; done
cp "$sabotage/goodplain.so" "$plugins/"
printf 'x' | dd of="$plugins/goodspare.so" bs=1 seek=5000 conv=notrunc status=none

fleet_open "$BIN" "$SCRATCH"
fleet_broker
fleet_controller 'drift = no'
fleet_agent server '' '' "interval_s = 1
[engine]
folder = $plugins"
id=${FLEET_ID[server]}
fleet_until 60 ".devices[] | select(.id == \"$id\" and .status == \"pending\")" devices || fleet_fail "the controller does not see the agent" server
fleet device "$id" approve --name server --quiet >/dev/null || exit 4
cp "$MODEL" "$SCRATCH/base.gguf"
head -c 3000 "$TEXTS/en/heldout.txt" | iconv -c -f UTF-8 -t UTF-8 >"$SCRATCH/gate.txt"
fleet models "$SCRATCH/base.gguf" "$SCRATCH/gate.txt" --quiet >/dev/null || exit 4

fleet device "$id" --json >"$SCRATCH/device.json"
# refuses_plugin NAME WORDS: by name, in what the device says of itself
refuses_plugin() {
    check "plugin $1 is refused: $(jq -r ".plugins[] | select(.name == \"$1\") | .refused" "$SCRATCH/device.json")" \
        is "$SCRATCH/device.json" ".plugins[] | select(.name == \"$1\") | .refused | test(\"$2\")"
}
refuses_plugin goodplain unsigned
refuses_plugin goodspare altered
refuses_plugin badversion ABI
refuses_plugin badcrash crash
refuses_plugin badhang hang
check "scalar serves" is "$SCRATCH/device.json" '.plugins[] | select(.name == "scalar") | .refused == ""'

# --- a rollout all the same, and its plan overheard ----------------------------------------------
fleet_certificate forger forger clientAuth ''
# a broker that lets somebody in between: what is signed must not need the broker's good will
printf 'user forger\ntopic readwrite tare/1/#\n' >>"$SCRATCH/acl"
kill -HUP "${FLEET_PID[broker]}"
stock() { "$1" -V mqttv5 -h localhost -p "$FLEET_PORT" --cafile "$SCRATCH/ca.crt" --cert "$SCRATCH/forger.crt" \
    --key "$SCRATCH/forger.key" -q 1 -t "tare/1/$FLEET_NAME/$id/dn/plan" "${@:2}" 2>>"$SCRATCH/forger.log"; }
write_recipe() {
    printf 'name: %s\ntype: %s\nmethod: rtn\ngates: {dppl_percent: 400}\nrollout: {stages: [100], deadline_s: 300, trial_s: 1}\n' "$1" "$1"
}
# overheard TYPE: deploys it, keeps the plan in TYPE.plan
overheard() {
    local ear
    stock mosquitto_sub -C 1 -N -W 60 >"$SCRATCH/$1.plan" &
    ear=$!
    sleep 0.5
    write_recipe "$1" >"$SCRATCH/$1.yaml"
    deploy "$SCRATCH/$1.yaml" "$SCRATCH/$1.json" 2>/dev/null
    check "the rollout of $1 commits" [ $? -eq 0 ]
    wait $ear
    check "its plan was overheard" [ -s "$SCRATCH/$1.plan" ]
}
overheard Q8_0
overheard Q4_K

# --- plans --------------------------------------------------------------------------------------
# What must not change: the files that serve, the slots that the device tells, and what it answers.
snapshot() {
    (cd "$SCRATCH/server" && find variants blobs -type f | LC_ALL=C sort | xargs sha256sum)
    fleet device "$id" --json --quiet | jq -S '[.variant, (.slots | map(del(.bytes)))]'
    curl -s -m 30 -d '{"prompt": "The sea", "max_tokens": 6, "temperature": 0}' "$(fleet_url server)/v1/completions" |
        jq -c '[.model, .choices[0].text]'
}
snapshot >"$SCRATCH/before"

# refuses WORDS PATTERN FILE: the agent says so in its log, and stays as it was
refuses() {
    local from
    from=$(wc -l <"$log")
    stock mosquitto_pub -f "$3"
    check "$1: refused with a reason" wait_for 60 heard "$from" "$2"
    say "    $(tail -n +$((from + 1)) "$log" | grep -E "$2" | head -n 1)"
    snapshot >"$SCRATCH/after"
    diff "$SCRATCH/before" "$SCRATCH/after" # to see what
    check "$1: the device is as it was" cmp -s "$SCRATCH/before" "$SCRATCH/after"
}
heard() { tail -n +$(($1 + 1)) "$log" | grep -qE "$2"; }
version=100
# forged CHANGE...: a plan above every version so far, signed by $key; its file is $forged
key=$SCRATCH/director.key
forged() {
    version=$((version + 1))
    forged=$SCRATCH/forged.$version
    FORGE_SIGNER=$SCRATCH/director.key "$BIN/forge" "$key" "$SCRATCH/Q4_K.plan" "$forged" version=$version plan_id=$version "$@" >/dev/null ||
        check "forge works: $*" false
}
refused='a plan was refused: '
for bit in 100 700 3000 8000 10400; do
    forged flip=$bit
    refuses "a plan with bit $bit flipped" "$refused(reject-)?(signature|format|audience)" "$forged"
done
forged device=00112233445566778899aabbccddeeff
refuses "a plan for another device" "$refused(reject-)?audience" "$forged"
forged for=elsewhere
refuses "an envelope for another fleet" "$refused(reject-)?audience" "$forged"
forged fleet=elsewhere
refuses "a plan for another fleet" "$refused(reject-)?audience" "$forged"
forged role=4
refuses "a plan signed in another role" "$refused(reject-)?audience" "$forged"
forged type=6
refuses "another message sent as a plan" "$refused(reject-)?audience" "$forged"
refuses "the plan before, replayed" "$refused(reject-)?stale" "$SCRATCH/Q8_0.plan"
forged not_after=1700000000000
refuses "an expired plan" "$refused(reject-)?expired" "$forged"
forged critical=9999
refuses "a plan with an unknown critical field" "$refused(reject-)?critical" "$forged"
"$BIN/tare" keygen "$SCRATCH/stranger.key" >/dev/null 2>&1 || "$BIN/tare" keygen -o "$SCRATCH/stranger.key" >/dev/null
key=$SCRATCH/stranger.key
forged again
refuses "a plan by somebody else" "$refused(reject-)?signature" "$forged"
key=$SCRATCH/director.key
head -c 2000 /dev/urandom >"$SCRATCH/noise"
refuses "noise" "$refused(reject-)?format" "$SCRATCH/noise"
from=$(wc -l <"$log")
stock mosquitto_pub -f "$SCRATCH/Q4_K.plan"
sleep 2
check "the plan in hand, replayed, changes nothing" [ "$(tail -n +$((from + 1)) "$log" | grep -c 'jobs: [A-Z]*:')" -eq 0 ]
forged plugin=quantum
refuses "a plan that names an absent plugin" 'jobs: REJECTED: .*there is no plugin quantum here' "$forged"
forged plugin=badcrash
refuses "a plan that names a refused plugin" 'jobs: REJECTED: .*badcrash is refused here' "$forged"
forged base=absent
refuses "a plan that names an absent digest" 'jobs: FAILED: .*fail-absent' "$forged"
forged base=other
refuses "a plan whose base has another digest" 'jobs: FAILED: .*fail-digest' "$forged"
check "refusals are in the controller's telemetry" fleet_until 30 '[.records[] | select(.kind == "error")] | length >= 3' telemetry --limit 1000

# --- damaged models, as the commands see them ----------------------------------------------------
# one_line WORDS STATUS COMMAND...: that status, and one line on standard error that begins with "tare: "
one_line() {
    local words=$1 status=$2 got
    shift 2
    "$@" >/dev/null 2>"$SCRATCH/err"
    got=$?
    check "$words: $(head -c 110 "$SCRATCH/err" | head -n 1 | sed "s|$SCRATCH/||g")" [ "$got" -eq "$status" ] &&
        check "$words: one line" [ "$(wc -l <"$SCRATCH/err")" -eq 1 ]
}
bad=$SCRATCH/bad.gguf
kib=$(($(stat -c %s "$SCRATCH/base.gguf") / 1024))
wrong=
for at in $(seq 0 24) 31 47 63 95 127 191 255 256 257 511 1023 2047 4095 $((kib - 1)) $kib; do
    head -c $((at * 1024)) "$SCRATCH/base.gguf" >"$bad"
    "$BIN/tare" inspect "$bad" >/dev/null 2>"$SCRATCH/err"
    [ $? -eq 3 ] && [ "$(wc -l <"$SCRATCH/err")" -eq 1 ] && grep -q '^tare: .*bad.gguf: ' "$SCRATCH/err" || wrong="$wrong $at"
done
check "a model cut at 40 places between 0 and $kib KiB: status 3 and one line" [ -z "$wrong" ]
[ -z "$wrong" ] || say "    not so at KiB:$wrong"
# poke OFFSET HEX-BYTES: into a copy
poke() {
    cp "$SCRATCH/base.gguf" "$bad"
    printf "$(sed 's/../\\x&/g' <<<"$2")" | dd of="$bad" bs=1 seek="$1" conv=notrunc status=none
}
poke 4 04000000
one_line "another version of the format" 3 "$BIN/tare" inspect "$bad"
poke 8 ffffffffffffffff
one_line "2^64 - 1 tensors" 3 "$BIN/tare" inspect "$bad"
poke 16 ffffffffffffff7f
one_line "2^63 - 1 keys" 3 "$BIN/tare" inspect "$bad"
poke 24 ffffffffffffff7f
one_line "a key of 2^63 - 1 bytes" 3 "$BIN/tare" inspect "$bad"
poke 8 0000000000000000
one_line "no tensors" 3 "$BIN/tare" run "$bad" -p x
head -c $((kib * 700)) "$SCRATCH/base.gguf" >"$bad"
one_line "tare quantize of a cut model" 3 "$BIN/tare" quantize "$bad" -o "$SCRATCH/out.gguf" --type Q4_0
check "nothing was written" [ ! -e "$SCRATCH/out.gguf" ]
one_line "tare eval of a cut model" 3 "$BIN/tare" eval "$bad" --text "$SCRATCH/gate.txt"
one_line "tare fleet models with a cut model" 3 fleet models "$bad" --kind base

# --- recipes ------------------------------------------------------------------------------------
# bad_recipe WORDS PATTERN TEXT
bad_recipe() {
    printf '%b' "$3" >"$SCRATCH/bad.yaml"
    one_line "a recipe with $1" 3 fleet deploy "$SCRATCH/bad.yaml" --model base.gguf --text gate.txt
    check "a recipe with $1: names it" grep -qE "$2" "$SCRATCH/err"
}
bad_recipe "an unknown key" 'nonsense' 'mode: balanced\nnonsense: 1\n'
bad_recipe "an unknown gate" 'dppl_per_cent' 'mode: balanced\ngates: {dppl_per_cent: 3}\n'
bad_recipe "an unknown key of its rollout" 'stagez' 'mode: balanced\nrollout: {stagez: [100]}\n'
bad_recipe "top-1 above 1" 'top1' 'mode: balanced\ngates: {top1: 1.5}\n'
bad_recipe "a negative KLD" 'kld_mean' 'mode: balanced\ngates: {kld_mean: -0.1}\n'
bad_recipe "no memory" 'rss_mib' 'mode: balanced\ngates: {rss_mib: 0}\n'
bad_recipe "a speed that is no number" 'decode_tok_s' 'mode: balanced\ngates: {decode_tok_s: fast}\n'
bad_recipe "stages that go back" 'stages' 'mode: balanced\nrollout: {stages: [50, 20, 100]}\n'
bad_recipe "an unknown type" 'Q9_X' 'type: Q9_X\n'
bad_recipe "nothing in it" 'yaml|mode|empty' ''
check "none of them became a rollout" fleet_holds '.rollouts | length == 2' rollouts

# --- and after all that --------------------------------------------------------------------------
write_recipe Q5_K >"$SCRATCH/last.yaml"
deploy "$SCRATCH/last.yaml" "$SCRATCH/last.json" 2>/dev/null
check "the next true plan commits" [ $? -eq 0 ]
check "the agent was never started again" [ "$(grep -c 'tared: .* epoch=' "$log")" -eq 1 ]
say "$failures failures"
