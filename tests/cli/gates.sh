#!/usr/bin/env bash
# gates.sh TARE MODEL TEXTS: a gate fails loudly: NaN keeps none, what cannot be measured is said before the work, and
# what is bad about the options or the base leaves nothing behind.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
tare=$1 model=$2 texts=$3
[ -r "$model" ] || { echo "skipped: $model is absent"; exit 77; }
texts=$(realpath "$texts") model=$(realpath "$model") tare=$(realpath "$tare")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1
. "$here/want.sh"
bytes=$(stat -c %s "$model")
head -c 6000 "$texts/en/heldout.txt" >held.txt
# The last 2048 weights are NaN.
{ head -c $((bytes - 4096)) "$model"; head -c 4096 /dev/zero | tr '\0' '\377'; } >nan.gguf

# What computes NaN keeps no gate, whichever is asked for.
judge=("$tare" eval --quiet --text held.txt --context 64 --windows 2)
for gate in kld_mean=0.01 dppl_percent=1 worst_kld_mean=0.01 worst_dppl_percent=1 kld_p99=9 top1=0.01; do
    want 1 "^tare: gate ${gate%=*}: .*(nan|measured 0), the limit is" "${judge[@]}" nan.gguf --reference "$model" --gate $gate
    want 1 "^tare: gate ${gate%=*}: .*(nan|measured 0), the limit is" "${judge[@]}" "$model" --reference nan.gguf --gate $gate
    grep -q MISSED out || fail "the table does not say that $gate was missed"
done
"$tare" eval nan.gguf --quiet --text held.txt --context 64 --windows 2 --reference "$model" --json >out 2>err
grep -q '"kld": *{[^}]*"value": null' <(tr -d '\n' <out) || fail "NaN is no null in JSON: $(head -c 300 out)"

# What cannot be measured is said before any work.
for gate in kld_mean=0.0001 dppl_percent=1 top1=0.5 kld_p99=1 worst_kld_mean=1 worst_dppl_percent=1; do
    want 2 "^tare: --gate ${gate%=*} needs --eval-text or --eval-language$" \
        "$tare" quantize "$model" -o a.gguf --type Q2_K --gate $gate
    want 2 "^tare: --gate ${gate%=*} needs --reference$" "$tare" eval "$model" --text held.txt --gate $gate
done
for gate in decode_tok_s=5 prefill_tok_s=5 rss_mib=100 energy_mj_token=1; do
    want 2 "^tare: --gate ${gate%=*} is measured where" \
        "$tare" quantize "$model" -o a.gguf --type Q2_K --eval-text held.txt --gate $gate
    want 2 "^tare: --gate ${gate%=*} is measured where" \
        "$tare" eval "$model" --reference "$model" --text held.txt --gate $gate
done
want 2 '^tare: --gate kld_mean needs' "$tare" quantize "$model" -o a.gguf --type Q2_K --dry-run --gate kld_mean=1
echo '{type: Q8_0, method: rtn, gates: {kld_mean: 0.05, decode_tok_s: 5, file_mib: 8}}' >both.yaml
want 2 '^tare: both.yaml: gate kld_mean needs --eval-text' "$tare" quantize "$model" -o a.gguf --plan both.yaml
want 2 '^tare: both.yaml: gate kld_mean needs --reference' "$tare" eval "$model" --text held.txt --plan both.yaml
[ -z "$(ls a.gguf* 2>/dev/null)" ] || fail "left behind: $(ls a.gguf*)"
# A recipe's gates of machines are the devices': said even when quiet.
want 0 '^tare: gate decode_tok_s: not measured here' \
    "$tare" quantize "$model" -o a.gguf --quiet --plan both.yaml --eval-text held.txt
[ -s a.gguf ] || fail "nothing was made"
"$tare" quantize "$model" -o b.gguf --quiet --plan both.yaml --dry-run >out 2>err || fail "a recipe cannot be planned: $(cat err)"

# A base with weights that are no numbers is refused by name, and nothing is left: by every way to read it.
cp "$model" inf.gguf
printf '\000\174' | dd of=inf.gguf bs=1 seek=$((bytes - 2)) conv=notrunc status=none
says='^tare: [^:]*(nan|inf)\.gguf: [a-z0-9_.]+: row [0-9]+, column [0-9]+: the weight is no finite number$'
for base in nan.gguf inf.gguf; do
    for options in "--type Q8_0 --method rtn" "--type Q4_K" "--scheme 4" "--bpw 4.5" "--type Q4_0 --method gptq --text held.txt" \
        "--prune 20%" "--rotate --type Q8_0"; do
        # shellcheck disable=SC2086
        want 3 "$says" "$tare" quantize $base -o c.gguf --quiet $options
        [ -z "$(ls c.gguf* c.* 2>/dev/null)" ] || { fail "$options leaves $(ls c.*)"; rm -f c.*; }
    done
    want 3 "$says" "$tare" calibrate $base --text held.txt -o c.gguf --quiet
done
"$tare" quantize "$model" -o q8.gguf --quiet --type Q8_0 --method rtn >/dev/null || fail "Q8_0: status $?"
q8=$(stat -c %s q8.gguf)
head -c $((34 * 8)) /dev/zero | tr '\0' '\377' | dd of=q8.gguf bs=1 seek=$((q8 - 34 * 8)) conv=notrunc status=none
want 3 '^tare: q8.gguf: .*the weight is no finite number$' "$tare" quantize q8.gguf -o c.gguf --quiet --type Q4_0

# The report of a refused run says so, and where the file is.
"$tare" quantize "$model" -o low.gguf --quiet --type Q2_K --eval-text held.txt --gate kld_mean=0.00001 --report r.json >out 2>err
[ $? -eq 1 ] || fail "a missed gate is status 1: $(cat err)"
grep -q '"variant": "low.gguf.refused"' r.json && grep -q '"refused": true' r.json && [ -e low.gguf.refused ] ||
    fail "the report does not say where the refused file is: $(grep -E 'variant|refused' r.json)"
grep -qx '# low.gguf.refused' r.md && grep -q '^- REFUSED' r.md || fail "nor does the readable one"
"$tare" quantize "$model" -o high.gguf --quiet --type Q8_0 --method rtn --report r.json >out 2>err || fail "Q8_0: $(cat err)"
grep -q '"variant": "high.gguf"' r.json && grep -q '"refused": false' r.json || fail "a kept variant is said to be refused"

# What is bad about the options is said before the work.
want 4 'No such file' "$tare" quantize "$model" -o d.gguf --quiet --type Q8_0 --report absent/r.json
long=$(printf 'x%.0s' {1..300})
want 2 "^tare: --profile: 'x{40}\.\.\.': expected a path of at most 255 bytes$" \
    "$tare" quantize "$model" -o d.gguf --quiet --profile "$long"
"$tare" calibrate "$model" --text held.txt -o old.gguf --quiet --tokens 512 >/dev/null || fail "calibrate: status $?"
head -c 3000 old.gguf >torn.gguf
for option in --compare --merge; do
    want 3 '^tare: torn.gguf: ' "$tare" calibrate "$model" --text held.txt -o d.gguf --quiet $option torn.gguf
done
[ -z "$(ls d.gguf* 2>/dev/null)" ] || fail "work was done first: $(ls d.gguf*)"
tail -c 3000 "$texts/zh/heldout.txt" >other.txt
"$tare" calibrate "$model" --text other.txt -o new.gguf --quiet --compare old.gguf --merge old.gguf >out 2>err || fail "compare: $(cat err)"
grep -q '^drift 0\.' out && ! grep -q '^drift 0\.00000' out || fail "no drift between languages: $(cat out)"
before=$(sha256sum <old.gguf)
"$tare" calibrate "$model" --text other.txt -o old.gguf --quiet --compare old.gguf >out 2>err
case $? in # compared with what was there, or not written over
0) grep -q '^drift 0\.00000' out && fail "compared with itself" ;;
*) [ "$before" = "$(sha256sum <old.gguf)" ] || fail "refused and written: $(cat err)" ;;
esac
[ $bad -eq 0 ] && echo "gates: loud"
exit $bad
