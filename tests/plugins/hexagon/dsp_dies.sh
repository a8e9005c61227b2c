#!/usr/bin/env bash
# dsp_dies.sh BIN FOLDER: a model whose DSP is killed in the middle of a text goes on with the CPU and says the
# same. BIN holds tare, FOLDER the emulated library.
set -eu
bin=$1
folder=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$bin/tare" quantize "$(dirname "$0")/../../../models/tare-tiny/tare-tiny-f16.gguf" -o "$work/q8.gguf" --type Q8_0 \
    --method rtn --quiet >/dev/null
say() {
    LD_LIBRARY_PATH=$folder HEXAGON_EMULATED_FAULT=${1:-} timeout 120 "$bin/tare" run "$work/q8.gguf" \
        -p "Once upon a time" -n 12 --temp 0 --plugin hexagon --path hvx 2>/dev/null
}
whole=$(say)
broken=$(say die:150)
[ -n "$whole" ] || { echo "no text at all"; exit 1; }
[ "$whole" = "$broken" ] || { printf 'different:\n%s\n%s\n' "$whole" "$broken"; exit 1; }
if say die:1 >/dev/null; then
    echo "a DSP that dies at the start was not noticed"
    exit 1
fi
echo "the CPU went on: $broken"
