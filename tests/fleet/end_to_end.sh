#!/usr/bin/env bash
# end_to_end.sh BIN: one recipe, three plugins, one digest; then inference, a benchmark and telemetry.
set -u
. "$(dirname "$0")/common.sh"

fleet_ready '' 'interval_s = 1'
# gates of quality stay; speed says nothing under a sanitizer
recipe balanced '/decode_tok_s/d; /rss_mib/d; s/trial_s: .*/trial_s: 1/; s/deadline_s: .*/deadline_s: 400/; s/kld_mean: .*/kld_mean: 0.05/' >"$SCRATCH/recipe.yaml"
deploy "$SCRATCH/recipe.yaml" "$SCRATCH/rollout.json"
check "tare fleet deploy --wait ends with 0" [ $? -eq 0 ]
check "the rollout is done" is "$SCRATCH/rollout.json" '.state == "done"'
check "three devices committed" is "$SCRATCH/rollout.json" '[.devices[] | select(.phase == "committed")] | length == 3'
check "all report the digest that the controller predicted" is "$SCRATCH/rollout.json" \
    '[.devices[] | .variant == .expected and (.variant | length) == 64] | all'
[ "$(uname -m)" != x86_64 ] ||
    check "scalar and vnni took part" is "$SCRATCH/rollout.json" '[.devices[].plugin] | unique == ["scalar", "vnni"]'
check "the first stage was one device" is "$SCRATCH/rollout.json" '.stages[0].devices == 1 and .stages[1].devices == 2'
digest=$(jq -r '.devices[0].variant' "$SCRATCH/rollout.json")

# the same bytes come out of the command
"$BIN/tare" quantize "$SCRATCH/base.gguf" -o "$SCRATCH/own.gguf" --plan "$SCRATCH/recipe.yaml" \
    --eval-text "$SCRATCH/gate.txt" --quiet >/dev/null
check "tare quantize derives the same file" [ "$(sha256sum <"$SCRATCH/own.gguf" | cut -d' ' -f1)" = "$digest" ]
for name in "${FLEET_AGENTS[@]}"; do
    check "$name holds that file" [ "$(sha256sum <"$SCRATCH/$name/variants/$digest.gguf" | cut -d' ' -f1)" = "$digest" ]
    curl -sS -m 60 -H 'Content-Type: application/json' -d '{"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}' \
        "$(fleet_url "$name")/v1/completions" >"$SCRATCH/$name.json"
    check "$name answers a completion" is "$SCRATCH/$name.json" '.choices[0].text | length > 0'
done
check "all give the same greedy answer" \
    [ "$(jq -r '.choices[0].text' "$SCRATCH"/{gateway,server,laptop}.json | sort -u | wc -l)" -eq 1 ]

fleet bench --prompt 32 --generate 8 --repeats 1 --wait --timeout 200 --json >"$SCRATCH/bench.json"
check "the remote benchmark ends with 0" [ $? -eq 0 ]
check "every device measured prefill and decode" is "$SCRATCH/bench.json" \
    '[.bench[] | (.rows | length == 2) and ([.rows[].tok_s > 0] | all)] | length == 3 and all'
check "telemetry of every device is stored" fleet_until 30 '[.records[].device] | unique | length == 3' telemetry --limit 1000
check "telemetry of every device names the plugin that serves the committed variant" fleet_until 30 \
    '[.records[] | select(.kind == "event" and .value.name == "plugin") | "\(.device) \(.value.text | split(" ")[0])"] | unique
    | length >= 3 and ([.[] | split(" ")[1]] | unique - ["scalar", "vnni", "neon"] | length == 0)' telemetry --limit 100000
check "no record is stored twice" fleet_holds '[.records[] | "\(.device) \(.epoch) \(.seq)"] | length == (unique | length)' telemetry --limit 100000
check "the trail names the rollout" fleet_holds '[.decisions[] | select(.kind == "rollout")] | length >= 3' decisions
say "$failures failures"
