#!/usr/bin/env bash
# frame.sh TARE: exit statuses and messages that hold for every verb.
set -u
tare=$1
bad=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# want STATUS PATTERN COMMAND...: the exit status, and a pattern somewhere in what was printed
want() {
    local status=$1 pattern=$2
    shift 2
    "$@" >"$scratch/out" 2>"$scratch/err" </dev/null
    local got=$?
    if [ $got -ne "$status" ] || ! cat "$scratch/out" "$scratch/err" | grep -qE -- "$pattern"; then
        echo "FAIL: $*: status $got, expected $status and /$pattern/"
        head -3 "$scratch/out" "$scratch/err"
        bad=1
    fi
}

want 0 '^usage: tare VERB' "$tare" --help
want 0 '^tare [0-9]+\.[0-9]+' "$tare" --version
want 2 '^usage: tare VERB' "$tare"
want 2 "^tare: unknown verb 'nonsense'; see tare --help$" "$tare" nonsense

# every verb that --help lists teaches by example, and refuses an unknown option with usage
for verb in $("$tare" --help | sed -n 's/^  \([a-z]\+\)  .*/\1/p'); do
    want 0 '^usage: tare ' "$tare" "$verb" --help
    verbs=$("$tare" "$verb" --help | sed -n 's/^  \([a-z]\+\)  .*/\1/p')
    if grep -q 'VERB \.\.\.$' "$scratch/out"; then
        for under in $verbs; do
            want 0 '^examples:' "$tare" "$verb" "$under" --help
            want 2 "^tare: unknown option --no-such-option; see tare $verb $under --help$" \
                "$tare" "$verb" "$under" --no-such-option
        done
    else
        want 0 '^examples:' "$tare" "$verb" --help
        want 2 "^tare: unknown option --no-such-option; see tare $verb --help$" "$tare" "$verb" --no-such-option
    fi
    [ "$(wc -l <"$scratch/err")" -eq 1 ] || { echo "FAIL: tare $verb: an error is one line"; bad=1; }
done

if [ -w /dev/full ]; then
    "$tare" --help >/dev/full 2>"$scratch/err"
    [ $? -eq 4 ] || { echo "FAIL: a full disk behind standard output is status 4"; bad=1; }
fi
[ $bad -eq 0 ] && echo "frame: statuses and messages hold"
exit $bad
