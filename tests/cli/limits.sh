#!/usr/bin/env bash
# limits.sh: tare inside cgroups made for the occasion, version 1 or 2: it must not be killed, and must choose
# threads, cache and budget by the limits. Skipped where cgroups cannot be made.
set -u
tare=$1
model=$2
root=/sys/fs/cgroup
group=tare_limits_$$
export XDG_CACHE_HOME
XDG_CACHE_HOME=$(mktemp -d)
made=()

finish() {
    for g in "${made[@]}"; do
        rmdir "$g" 2>/dev/null || { sleep 0.2; rmdir "$g" 2>/dev/null; }
    done
    rm -rf "$XDG_CACHE_HOME"
}
trap finish EXIT
skip() { echo "skipped: $1"; exit 77; }
fail() { echo "FAILED: $1"; exit 1; }

make() { mkdir "$1" 2>/dev/null && made+=("$1"); }
if [ -e $root/memory/memory.limit_in_bytes ] && [ -e $root/cpu ]; then
    make $root/memory/$group && make $root/cpu/$group || skip "no cgroup can be made here"
    memory=$root/memory/$group/memory.limit_in_bytes
    quota() { echo "$1" >$root/cpu/$group/cpu.cfs_quota_us; }
elif grep -qs memory $root/cgroup.subtree_control && grep -qs cpu $root/cgroup.subtree_control; then
    make $root/$group || skip "no cgroup can be made here"
    memory=$root/$group/memory.max
    quota() { echo "$1 100000" >$root/$group/cpu.max; }
else
    skip "no controllers for memory and cpu"
fi
mib=$((1 << 20))
echo $((84 * mib)) >"$memory" || skip "no memory limit can be set"
quota 100000 || skip "no quota can be set"

inside() {
    ( for g in "${made[@]}"; do echo "$BASHPID" >"$g/cgroup.procs"; done; exec "$@" )
}
value() { python3 -c 'import json,sys; d=json.load(sys.stdin); d=d.get("tune",d); print(d[sys.argv[1]])' "$1"; }

# One CPU of quota: one thread, whatever the machine has; the budget is a share of what is left of 84 MiB.
out=$(inside "$tare" bench "$model" --tune -p 64 -n 16 --json) || fail "bench --tune ends with $?"
[ "$(value threads <<<"$out")" = 1 ] || fail "more than one thread under a quota of one CPU: $out"
budget=$(value budget_bytes <<<"$out")
[ "$budget" -gt $((16 * mib)) ] && [ "$budget" -le $((68 * mib)) ] || fail "a budget of $budget bytes under 84 MiB"
grep -q cgroup <<<"$out" || fail "no reason names the cgroup"

# 64 MiB of F16 cache do not fit; Q8_0 does, and nobody is killed for it.
out=$(inside "$tare" run "$model" -p "The city" -n 4 --context 65536 --json) || fail "run ends with $?"
[ "$(value cache <<<"$out")" = Q8_0 ] || fail "the cache is no Q8_0: $out"
[ "$(value context <<<"$out")" = 65536 ] || fail "the context was cut"

# What fits in no way is refused with a line, not killed.
inside "$tare" run "$model" -p "The city" -n 4 --context 4000000 --cache f16 >/dev/null 2>"$XDG_CACHE_HOME/error"
status=$?
[ $status = 4 ] || fail "a cache of gigabytes ends with $status, expected 4: $(cat "$XDG_CACHE_HOME/error")"

# One and a half CPUs: two threads at most, and told to be a quota.
quota 150000
out=$(inside "$tare" bench "$model" --tune -p 64 -n 16 --json) || fail "bench --tune ends with $?"
[ "$(value threads <<<"$out")" -le 2 ] || fail "more than two threads under 1.5 CPUs"
[ "$(nproc)" -lt 2 ] || grep -q "under a quota" <<<"$out" || fail "no reason names the quota: $out"
echo "limits are respected"
