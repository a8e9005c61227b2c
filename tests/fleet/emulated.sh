#!/usr/bin/env bash
# emulated.sh BIN: whole agents, cross-built for arm64 and run under qemu-aarch64, do the main job beside a native
# one: with the neon plugin, and with hexagon whose DSP is a qemu-hexagon process. One digest.
set -u
. "$(dirname "$0")/common.sh"

for tool in aarch64-linux-gnu-gcc qemu-aarch64 qemu-hexagon clang ld.lld; do
    command -v $tool >/dev/null || { say "skipped: $tool is missing, script/setup installs it"; exit 77; }
done
"$ROOT/script/sysroot" || { say "skipped: the arm64 libraries cannot be fetched"; exit 77; }
arm=$ROOT/build/arm64
fleet_open "$BIN" "$SCRATCH"
(cd "$ROOT" && cmake --preset arm64) >"$SCRATCH/arm64.log" 2>&1 &&
    cmake --build "$arm" --target tared tared-worker neon hexagon hexagon_emulator cdsprpc_emulated >>"$SCRATCH/arm64.log" 2>&1 ||
    fleet_fail "the cross build fails" arm64

# The kernel here runs no arm64 program by itself: a script of the program's name does.
# emulated NAME LIBRARIES: programs that run under qemu, with a folder for dlopen.
emulated() {
    local folder=$SCRATCH/$1-programs/bin program
    mkdir -p "$folder"
    ln -s "$arm/lib" "$folder/../lib" # plugins are looked for beside the programs
    cp "$arm/bin/tared" "$folder/tared.arm64"
    cp "$arm/bin/tared-worker" "$folder/worker.arm64"
    for program in tared:tared tared-worker:worker; do
        cat >"$folder/${program%:*}" <<SCRIPT
#!/bin/sh
exec qemu-aarch64 -L "$ROOT/build/arm64-sysroot" -cpu max ${2:+-E LD_LIBRARY_PATH="$2"} "$folder/${program#*:}.arm64" "\$@"
SCRIPT
        chmod +x "$folder/${program%:*}"
    done
    FLEET_AGENT_BIN=$folder
}

fleet_broker
fleet_controller 'drift = no'
fleet_agent native scalar ''
emulated neon ''
fleet_agent neon neon ''
emulated hexagon "$arm/lib/tare/hexagon_emulated"
fleet_agent hexagon hexagon hvx
for name in "${FLEET_AGENTS[@]}"; do
    fleet_until 120 ".devices[] | select(.id == \"${FLEET_ID[$name]}\" and .status == \"pending\")" devices ||
        fleet_fail "the controller does not see $name" "$name"
    fleet device "${FLEET_ID[$name]}" approve --name "$name" --quiet >/dev/null || exit 4
done
cp "$MODEL" "$SCRATCH/base.gguf"
head -c 2500 "$TEXTS/en/heldout.txt" | iconv -c -f UTF-8 -t UTF-8 >"$SCRATCH/gate.txt"
fleet models "$SCRATCH/base.gguf" "$SCRATCH/gate.txt" --quiet >/dev/null || exit 4
# gates of quality stay; speed says nothing under emulation
recipe balanced '/decode_tok_s/d; /rss_mib/d; s/trial_s: .*/trial_s: 1/; s/deadline_s: .*/deadline_s: 900/; s/kld_mean: .*/kld_mean: 0.05/; s/type: .*/type: Q4_0/' >"$SCRATCH/recipe.yaml"
fleet deploy "$SCRATCH/recipe.yaml" --model base.gguf --text gate.txt --wait --timeout 850 --json >"$SCRATCH/rollout.json"
check "tare fleet deploy --wait ends with 0" [ $? -eq 0 ]
check "three devices committed" is "$SCRATCH/rollout.json" '[.devices[] | select(.phase == "committed")] | length == 3'
check "all report the digest that the controller predicted" is "$SCRATCH/rollout.json" \
    '[.devices[] | .variant == .expected and (.variant | length) == 64] | all'
check "scalar, neon and hexagon took part" is "$SCRATCH/rollout.json" '[.devices[].plugin] | unique == ["hexagon", "neon", "scalar"]'
say "$failures failures"
