#!/usr/bin/env bash
# methods.sh TARE SOURCE_DIR: methods, profiles, ranges and gates as a user meets them.
set -u
tare=$1
source=$2
base=$source/models/tare-tiny/tare-tiny-f16.gguf
text=$source/tests/data/text
bad=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1

# want STATUS PATTERN COMMAND...: the exit status, and a pattern somewhere in what was printed
want() {
    local status=$1 pattern=$2
    shift 2
    "$@" >out 2>err </dev/null
    local got=$?
    if ! [[ $got =~ ^$status$ ]] || ! cat out err | grep -qE -- "$pattern"; then
        echo "FAIL: $*: status $got, expected $status and /$pattern/"
        head -3 out err
        bad=1
    fi
}

head -c 9000 "$text/en/heldout.txt" >held-out.txt

# methods, schemes, export
want 0 '4\.[0-9]+ bits per weight|"bpw": 4' "$tare" quantize "$base" -o cascade.gguf --type Q4_0 --method cascade
want 0 'its own container.*simulated' "$tare" quantize "$base" -o scheme.gguf --scheme '4 asymmetric 128 percentile=99.5'
want 0 . "$tare" quantize "$base" -o blocks.gguf --scheme '4 power-of-two 64'
want 2 "'round': expected bits 2 to 8" "$tare" quantize "$base" -o no.gguf --scheme '4 round'
want 2 'expected only one of' "$tare" quantize "$base" -o no.gguf --scheme 4 --type Q4_0
want 0 . "$tare" quantize "$base" -o nf4.gguf --type NF4 --method rtn
want 0 . "$tare" quantize nf4.gguf -o stock.gguf --export
want 0 'IQ4_NL' "$tare" inspect stock.gguf

# an option replaces what the recipe says, or says that it cannot
printf 'method: scheme\nscheme: 4 affine 64\nseed: 7\ncalibration: {texts: [held-out.txt], tokens: 1024}\n' >scheme.yaml
want 2 'scheme has types of its own: expected --method' "$tare" quantize "$base" -o no.gguf --plan scheme.yaml --type Q6_K
want 0 'type, method rtn.*seed 7' "$tare" quantize "$base" -o replaced.gguf --plan scheme.yaml --type Q6_K --method rtn
want 0 'type, method rtn, sensitivity' "$tare" quantize "$base" -o replaced.gguf --plan scheme.yaml --type Q6_K --method rtn --seed 0
want 2 'seed takes a whole number' "$tare" quantize "$base" -o no.gguf --seed 1x
want 2 'bpw takes a number from 0.5' "$tare" quantize "$base" -o no.gguf --bpw 0
want 0 . "$tare" quantize "$base" -o few.gguf --type Q4_K --method gptq --text held-out.txt --tokens 1024
want 0 . "$tare" quantize "$base" -o few2.gguf --plan scheme.yaml --type Q4_K --method gptq --seed 0
cmp -s few.gguf few2.gguf || { echo "FAIL: gptq does not take a recipe's tokens as it takes --tokens"; bad=1; }

# statistics that are not there, or of another model
want 3 'method awq: expected a profile or calibration texts' "$tare" quantize "$base" -o no.gguf --type Q4_K --method awq
want 0 . "$tare" calibrate "$base" -o own.gguf --text held-out.txt --dat # knows no base that it was taken from
want 0 . "$tare" quantize "$base" -o own4.gguf --type Q4_K --profile own.gguf
want 0 . "$tare" quantize "$base" -o narrow.gguf --type F16 --prune ffn=20% --prune-by magnitude
want '[13]' 'is of another model: blk.*channels there' "$tare" quantize narrow.gguf -o no.gguf --type Q4_K --profile own.gguf

# a layer of a name that no model has is none
sed 's/blk\.1\.ffn_down\.weight/blk.1000000000.wei.gt/' "$base" >foreign.gguf
want '[13]' . timeout 60 "$tare" quantize foreign.gguf -o no.gguf --type Q4_K --method gptq --text held-out.txt

# a gate that the cache breaks: one line, status 1, no file of that name
cat >recipe.yaml <<'END'
{type: Q8_0, method: rtn, cache: q8_0, gates: {kld_mean: 0.002, worst_kld_mean: 0.003, file_mib: 8}}
END
want 0 . "$tare" quantize "$base" -o gated.gguf --plan recipe.yaml --eval-text held-out.txt
sed 's/q8_0,/q4_0,/' recipe.yaml >coarse.yaml
want 1 '^tare: gate kld_mean: measured 0\.0[0-9]+, the limit is 0\.002; the file is refused\.gguf\.refused$' \
    "$tare" quantize "$base" -o refused.gguf --plan coarse.yaml --eval-text held-out.txt
[ -e refused.gguf ] && echo "FAIL: a refused file has its name" && bad=1
want 0 . "$tare" eval gated.gguf --reference "$base" --text held-out.txt --plan recipe.yaml
want 1 'gate kld_mean' "$tare" eval gated.gguf --reference "$base" --text held-out.txt --plan coarse.yaml
want 1 'gate kld_mean' "$tare" eval gated.gguf --reference "$base" --text held-out.txt --plan recipe.yaml \
    --activation-bits 4
want 0 . "$tare" quantize "$base" -o gated.gguf --plan coarse.yaml --cache f16 --eval-text held-out.txt

# profiles: made, shown, merged, weighted, aged, converted there and back, compared
"$tare" calibrate "$base" --text "$text/en/heldout.txt" -o en.gguf --tokens 1024 --ranges en.ranges --quiet >out 2>err ||
    { cat err; bad=1; }
want 0 . "$tare" calibrate "$base" --text "$text/zh/heldout.txt" -o zh.gguf --tokens 1024 --quiet
want 0 '1024 tokens seen, of base' "$tare" profile en.gguf
want 0 '2048 tokens seen' "$tare" profile en.gguf zh.gguf -o both.gguf
want 0 '1536 tokens seen' "$tare" profile en.gguf zh.gguf=0.5
want 0 '1536 tokens seen' "$tare" profile en.gguf zh.gguf --age 0.5
want 0 '"tokens": 2048\.0' "$tare" profile en.gguf zh.gguf --balance --json
want 0 'drift 0\.[0-9]+ .*, 28 inputs compared' "$tare" profile en.gguf --compare zh.gguf
want 0 . "$tare" profile both.gguf --dat -o both.dat
want 0 'drift 0\.00000' "$tare" profile both.dat -o again.gguf --compare both.gguf
want 2 'weight above 0' "$tare" profile en.gguf=0
want 3 'held-out.txt' "$tare" profile held-out.txt

# ranges: of each method, and refused where they cannot be meant
for range in minmax percentile mse entropy; do
    want 0 '"kld"' "$tare" eval "$base" --reference "$base" --text held-out.txt --windows 2 --activation-bits 8 \
        --ranges en.ranges --range $range --json
done
want 2 'expected --activation-bits' "$tare" eval "$base" --text held-out.txt --ranges en.ranges
want 3 'expected a file of ranges' "$tare" eval "$base" --text held-out.txt --activation-bits 8 --ranges en.gguf

# a recipe says which sensitivity; the option says otherwise
printf 'bpw: 4.5\nmethod: rtn\nsensitivity: leave-one-out\n' >measured.yaml
export XDG_CACHE_HOME=$scratch
want 3 'expected --bpw or --mode, and --text' "$tare" quantize "$base" -o never.gguf --plan measured.yaml
want 0 'sensitivity leave-one-out' "$tare" quantize "$base" -o measured.gguf --plan measured.yaml --text held-out.txt --tokens 64
want 0 'sensitivity leave-one-out' "$tare" quantize "$base" -o asked.gguf --bpw 4.5 --method rtn --sensitivity leave-one-out \
    --text held-out.txt --tokens 64
cmp measured.gguf asked.gguf || { echo 'FAIL: recipe and option give different files'; bad=1; }
want 0 'sensitivity names' "$tare" quantize "$base" -o named.gguf --plan measured.yaml --sensitivity names
want 1 'differ' cmp measured.gguf named.gguf

exit $bad
