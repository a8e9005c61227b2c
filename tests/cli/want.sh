# want.sh: what a verb says and how it ends; sourced by tests of this folder, in a scratch folder of theirs.
# shellcheck shell=bash
bad=0
fail() { echo "FAIL: $*"; bad=1; }

# want STATUS PATTERN COMMAND...: the exit status, and one line of error that has the pattern
want() {
    local status=$1 pattern=$2
    shift 2
    "$@" >out 2>err </dev/null
    local got=$?
    if [ $got -ne "$status" ] || ! grep -qE -- "$pattern" err || [ "$(wc -l <err)" -ne 1 ]; then
        fail "$* ends with $got, expected $status and /$pattern/: $(head -3 err)"
    fi
}
