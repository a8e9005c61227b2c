#!/usr/bin/env bash
# encoder.sh BIN: an encoder goes the whole way: imported, quantised on the device, committed, and it gives vectors.
set -u
AGENTS=gateway
. "$(dirname "$0")/common.sh"

MODEL=$SCRATCH/bert.gguf
"$BIN/tare" import "$ROOT/tests/model/family/bert" -o "$MODEL" --quiet || fleet_fail "the encoder cannot be imported"
fleet_ready '' 'interval_s = 1'
printf 'name: Q8_0\ntype: Q8_0\nmethod: rtn\nrollout: {stages: [100], deadline_s: 300, trial_s: 1}\n' >"$SCRATCH/recipe.yaml"
deploy "$SCRATCH/recipe.yaml" "$SCRATCH/rollout.json"
check "the rollout commits" [ $? -eq 0 ]
check "with the predicted digest" is "$SCRATCH/rollout.json" '.state == "done" and .devices[0].variant == .devices[0].expected'
check "its speed was measured, and none of answering" is "$SCRATCH/rollout.json" \
    '.devices[0].measured | .prefill_tok_s > 0 and (.decode_tok_s // 0) == 0'

# post PATH BODY OUT: the HTTP status
post() { curl -s -m 60 -o "$3" -w '%{http_code}' -H 'Content-Type: application/json' -d "$2" "$(fleet_url gateway)$1"; }
check "vectors come" [ "$(post /v1/embeddings '{"model": "default", "input": ["hello world", "x"], "encoding_format": "float"}' "$SCRATCH/vectors.json")" = 200 ]
check "two of them, of unit length" is "$SCRATCH/vectors.json" \
    '(.data | length) == 2 and all(.data[]; (.embedding | map(. * .) | add) as $n | $n > 0.999 and $n < 1.001) and .usage.total_tokens > 2'
"$BIN/tare" embed "$MODEL" 'hello world' 'x' --json >"$SCRATCH/base.json"
jq -s '[range(2) as $i | [.[0].data[$i].embedding, .[1].data[$i].embedding] | transpose | map(.[0] * .[1]) | add] | {cosine: .}' \
    "$SCRATCH/vectors.json" "$SCRATCH/base.json" >"$SCRATCH/cosine.json"
check "near those of the base" is "$SCRATCH/cosine.json" 'all(.cosine[]; . > 0.99)'
check "it says that it does not answer" [ "$(post /v1/completions '{"prompt": "x"}' "$SCRATCH/refusal.json")" = 400 ]
check "in the form of the API" is "$SCRATCH/refusal.json" '.error.type == "invalid_request_error" and (.error.message | test("embeddings"))'
check "and what it can do" is <(curl -s "$(fleet_url gateway)/v1/models") '.data[0].capabilities == {"completions": false, "chat": false, "embeddings": true}'
say "$failures failures"
