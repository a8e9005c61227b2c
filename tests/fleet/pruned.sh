#!/usr/bin/env bash
# pruned.sh BIN: a recipe that prunes: three devices with different plugins cut and quantise the same bytes, which
# the controller foretold; with recovery every device solves for itself and its gates decide.
set -u
. "$(dirname "$0")/common.sh"

fleet_ready
cat >"$SCRATCH/cut.yaml" <<'END'
name: cut
type: q8_0
method: rtn
prune: {ffn: 20%, heads: 25%, by: magnitude}
gates: {kld_mean: 5}
rollout: {stages: [100], trial_s: 1, deadline_s: 400}
END
deploy "$SCRATCH/cut.yaml" "$SCRATCH/cut.json"
check "a recipe that prunes is rolled out" [ $? -eq 0 ]
check "three devices hold one variant" is "$SCRATCH/cut.json" \
    '[.devices[].variant] | length == 3 and (unique | length == 1) and (.[0] | test("^[0-9a-f]{64}$"))'
check "and all of them committed it" is "$SCRATCH/cut.json" '[.devices[].state] | all(. == "COMMITTED")'
for name in "${FLEET_AGENTS[@]}"; do
    curl -sS -m 60 -H 'Content-Type: application/json' -d '{"prompt": "The sea", "max_tokens": 4}' \
        "$(fleet_url "$name")/v1/completions" >"$SCRATCH/$name.json"
    check "$name answers with it" is "$SCRATCH/$name.json" '.choices[0].text'
done

sed -e 's/name: cut/name: solved/; s/by: magnitude/by: magnitude, recover: true/' "$SCRATCH/cut.yaml" >"$SCRATCH/solved.yaml"
printf 'calibration: {texts: [gate.txt], tokens: 1024}\n' >>"$SCRATCH/solved.yaml"
deploy "$SCRATCH/solved.yaml" "$SCRATCH/solved.json"
check "one that recovers too" [ $? -eq 0 ]
check "it is closer to the base on every device" \
    [ "$(jq -s '[(.[1].devices | sort_by(.device)), (.[0].devices | sort_by(.device))] | transpose | all(.[0].measured.kld_mean < .[1].measured.kld_mean)' \
        "$SCRATCH/cut.json" "$SCRATCH/solved.json")" = true ]

printf 'type: q8_0\nprune: {layers: 1%%}\n' >"$SCRATCH/none.yaml"
deploy "$SCRATCH/none.yaml" "$SCRATCH/none.json" 2>"$SCRATCH/err"
check "a share of which nothing would go is refused" [ $? -ne 0 ]
check "with the reason" grep -q 'nothing would go' "$SCRATCH/none.json" "$SCRATCH/err"
say "$failures failures"
