#!/usr/bin/env bash
# languages.sh TARE MODEL TEXTS: languages from calibration to the gate: equal tokens, sections that add up, a table,
# and a worst language that fails with status 1 and one line.
set -u
tare=$1 model=$2 texts=$3
[ -r "$model" ] || { echo "skipped: $model is absent"; exit 77; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
bad=0
fail() { echo "FAIL: $*"; bad=1; }

"$tare" calibrate "$model" --quiet --json --window 64 --sections -o "$scratch/p.gguf" \
    --language en="$texts/en/calibration.txt" fr="$texts/fr/calibration.txt" --tokens 512 >"$scratch/calibrate.json" ||
    fail "calibrate: status $?"
grep -q '"en=512"' "$scratch/calibrate.json" && grep -q '"fr=512"' "$scratch/calibrate.json" || fail "unequal tokens"
"$tare" profile "$scratch/p.en.gguf" "$scratch/p.fr.gguf" --compare "$scratch/p.gguf" --quiet | grep -q '^drift 0.00000' ||
    fail "the sections do not add up to the whole"

"$tare" quantize "$model" -o "$scratch/o.gguf" --quiet --type q4_0 --method rtn --report "$scratch/r.json" \
    --eval-language en="$texts/en/heldout.txt" fr="$texts/fr/heldout.txt" --gate worst_kld_mean=1e-6 >/dev/null 2>"$scratch/err"
[ $? -eq 1 ] || fail "a missed gate is status 1"
[ "$(wc -l <"$scratch/err")" -eq 1 ] && grep -qE 'gate worst_kld_mean: (en|fr) has .*, the limit is 1e-06' "$scratch/err" ||
    fail "one line that names gate, language, value and limit: $(cat "$scratch/err")"
[ ! -e "$scratch/o.gguf" ] && [ -e "$scratch/o.gguf.refused" ] || fail "what missed its gate has the name all the same"
grep -q '"is_kept": false' "$scratch/r.json" && grep -q '"kld_mean"' "$scratch/r.json" || fail "the report lacks the gate"
grep -q '^| worst_kld_mean .*MISSED' "$scratch/r.md" || fail "the readable report lacks the gate"

"$tare" eval "$scratch/o.gguf.refused" --quiet --reference "$model" --context 64 --windows 8 --language \
    en="$texts/en/heldout.txt" fr="$texts/fr/heldout.txt" --gate worst_kld_mean=5 >"$scratch/table" || fail "eval: status $?"
for word in '^| en ' '^| fr ' '^| all ' '^worst: '; do
    grep -q "$word" "$scratch/table" || fail "eval prints no line $word"
done

"$tare" quantize "$model" -o "$scratch/n.gguf" --quiet --type q4_0 --eval-language en="$scratch/none.txt" >/dev/null 2>"$scratch/err"
[ $? -eq 3 ] && grep -qx "tare: $scratch/none.txt: No such file or directory" "$scratch/err" ||
    fail "a text that is absent: status 3 and its name expected: $(cat "$scratch/err")"
[ -z "$(ls "$scratch" | grep '^n')" ] || fail "work was done before the absent text was missed"
[ $bad -eq 0 ] && echo "languages: balanced, told apart, judged"
exit $bad
