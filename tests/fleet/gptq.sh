#!/usr/bin/env bash
# gptq.sh BIN: a recipe whose method is gptq: every device gathers its own Hessians from the text that comes with the plan
# and its gates decide. Each result is closer to the base than what search makes of the same plan, pruned ones too.
set -u
AGENTS='server laptop'
. "$(dirname "$0")/common.sh"

# closer A B: on every device A's KLD is less than B's
closer() {
    [ "$(jq -s 'map(.devices | sort_by(.device)) | transpose | length == 2 and
        all(map(.measured.kld_mean | type) == ["number", "number"] and .[0].measured.kld_mean < .[1].measured.kld_mean)' \
        "$SCRATCH/$1.json" "$SCRATCH/$2.json")" = true ]
}

fleet_ready
cat >"$SCRATCH/searched.yaml" <<'END'
name: searched
type: q4_k
method: search
calibration: {texts: [gate.txt], tokens: 1024}
gates: {kld_mean: 5}
rollout: {stages: [100], trial_s: 1, deadline_s: 400}
END
sed 's/searched/fitted/; s/method: search/method: gptq/' "$SCRATCH/searched.yaml" >"$SCRATCH/fitted.yaml"
for name in searched fitted; do
    sed "s/$name/cut_$name/; \$a prune: {ffn: 33%, by: magnitude, recover: true}" "$SCRATCH/$name.yaml" >"$SCRATCH/cut_$name.yaml"
done
for name in searched fitted cut_searched cut_fitted; do
    deploy "$SCRATCH/$name.yaml" "$SCRATCH/$name.json"
    check "$name: rolled out" [ $? -eq 0 ]
    check "$name: both devices committed it" is "$SCRATCH/$name.json" '[.devices[].state] | length == 2 and all(. == "COMMITTED")'
done
check "search has the same bytes on both" is "$SCRATCH/searched.json" '[.devices[].variant] | unique | length == 1'
check "gptq is closer to the base" closer fitted searched
check "and so it is where channels were cut away" closer cut_fitted cut_searched
for name in "${FLEET_AGENTS[@]}"; do
    curl -sS -m 60 -H 'Content-Type: application/json' -d '{"prompt": "The sea", "max_tokens": 4}' \
        "$(fleet_url "$name")/v1/completions" >"$SCRATCH/$name.json"
    check "$name answers with it" is "$SCRATCH/$name.json" '.choices[0].text'
done
say "$failures failures"
