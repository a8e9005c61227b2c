#!/usr/bin/env bash
# bad_recipe.sh BIN: two bits everywhere fail the gate on the canary: the rollout halts before stage 2, and
# every device still runs, and answers with, what it ran before.
set -u
. "$(dirname "$0")/common.sh"

fleet_ready
recipe balanced '/decode_tok_s/d; /rss_mib/d; s/trial_s: .*/trial_s: 1/; s/deadline_s: .*/deadline_s: 400/; s/kld_mean: .*/kld_mean: 0.05/' >"$SCRATCH/good.yaml"
deploy "$SCRATCH/good.yaml" "$SCRATCH/good.json"
check "a good recipe commits first" [ $? -eq 0 ]
old=$(jq -r '.devices[0].variant' "$SCRATCH/good.json")

fleet_talks server "$TEXTS/en/search.txt"
recipe bad 's/deadline_s: .*/deadline_s: 400/' >"$SCRATCH/bad.yaml"
deploy "$SCRATCH/bad.yaml" "$SCRATCH/bad.json"
check "tare fleet deploy --wait ends with 1" [ $? -eq 1 ]
check "the rollout is halted in its first stage" is "$SCRATCH/bad.json" '.state == "halted" and .stage == 0'
check "one device tried, and failed its gate" is "$SCRATCH/bad.json" \
    '[.devices[] | select(.state == "FAILED")] | length == 1 and .[0].stage == 0 and .[0].measured.dppl_percent > 1'
check "the reason names the gate and both numbers" is "$SCRATCH/bad.json" \
    '[.devices[] | select(.state == "FAILED")][0] | .code == "gate-dppl" and (.reason | test("limit is 1$"))'
check "the second stage was never offered" is "$SCRATCH/bad.json" \
    '([.devices[] | select(.stage == 1)] | length == 2 and all(.phase == "waiting" and .plan == null)) and .stages[1].waiting == 2'
check "every device still runs the old variant" fleet_holds "[.devices[].variant == \"$old\"] | length == 3 and all" devices
for name in "${FLEET_AGENTS[@]}"; do
    curl -sS -m 60 -H 'Content-Type: application/json' -d '{"prompt": "The sea", "max_tokens": 4}' \
        "$(fleet_url "$name")/v1/completions" >"$SCRATCH/$name.json"
    check "$name answers" is "$SCRATCH/$name.json" '.choices[0].text'
done
fleet_stop server-talk
check "the old variant answered all along" [ "$(grep -vc '^200$' "$SCRATCH/server-talk.log")" -eq 0 ]
check "and there were requests" grep -q '^200$' "$SCRATCH/server-talk.log"

# what cannot even be planned is refused with a reason
printf 'mode: balanced\nnonsense: 1\n' >"$SCRATCH/unknown.yaml"
fleet deploy "$SCRATCH/unknown.yaml" --model base.gguf >/dev/null 2>"$SCRATCH/err"
check "an unknown key is bad input" [ $? -eq 3 ]
check "and named in one line" grep -qE '^tare: controller: .*nonsense' "$SCRATCH/err"
fleet deploy "$SCRATCH/good.yaml" --model nothing.gguf >/dev/null 2>"$SCRATCH/err"
check "an unknown model is bad input" [ $? -eq 3 ]
fleet device "${FLEET_ID[gateway]}" revoke --quiet >/dev/null
check "a revoked device is not in the next cohort" fleet_holds '[.devices[] | select(.status == "approved")] | length == 2' devices
say "$failures failures"
