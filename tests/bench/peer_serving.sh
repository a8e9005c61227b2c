#!/usr/bin/env bash
# peer_serving.sh PEER_BIN BIN MODEL [SECONDS [CLIENTS...]]: serving side by side with llama-server: the same file, as
# many threads, the same prompts, 1, 8 and 32 clients, theirs and ours in turn, twice. One JSON line per run, a table
# at the end. About 12 * SECONDS + 30 s; SECONDS is 15 unless given.
set -eu
peer=${1:?usage: peer_serving.sh PEER_BIN BIN MODEL [SECONDS [CLIENTS...]]}
bin=${2:?}
model=${3:?}
seconds=${4:-15}
shift $(($# > 4 ? 4 : $#))
[ $# -gt 0 ] || set -- 1 8 32
here=$(cd "$(dirname "$0")" && pwd -P)
threads=${THREADS:-$(nproc)}
most=0
for n in "$@"; do [ "$n" -gt "$most" ] && most=$n; done
scratch=$(mktemp -d)
pids=
trap 'for p in $pids; do kill "$p" 2>/dev/null || true; done; exec 9>&-; wait; rm -rf "$scratch"' EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

mkfifo "$scratch/in"
"$bin/serve_host" "$model" threads="$threads" sequences="$most" context=512 queue=256 keep="$most" \
    <"$scratch/in" >"$scratch/ours.out" 2>"$scratch/ours.log" &
pids="$pids $!"
exec 9>"$scratch/in"
port_theirs=$(free_port)
"$peer/llama-server" -m "$model" --host 127.0.0.1 --port "$port_theirs" -t "$threads" -tb "$threads" -np "$most" \
    -c $((512 * most)) >"$scratch/theirs.log" 2>&1 &
pids="$pids $!"
for ((i = 0; i < 600; i++)); do
    [ -s "$scratch/ours.out" ] && curl -sf "http://127.0.0.1:$port_theirs/health" >/dev/null && break
    sleep 0.1
done
read -r port_ours _ <"$scratch/ours.out"

for n in "$@"; do
    for round in 1 2; do
        for who in theirs ours; do
            port=port_$who
            line=$(python3 "$here/serving_load.py" "${!port}" "$n" "$seconds" --seed $round)
            echo "{\"who\": \"$who\", \"round\": $round, ${line#\{}" | tee -a "$scratch/lines"
        done
    done
done
python3 - "$scratch/lines" <<'EOF'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
print(f"{'clients':>7} {'tok/s theirs':>14} {'ours':>14} {'ratio':>6}   {'first token p50/p99 ms theirs':>30} {'ours':>16}")
for n in sorted({r["clients"] for r in rows}):
    def of(who, key):
        return [r[key] for r in rows if r["clients"] == n and r["who"] == who]
    def pair(who):
        return "/".join(f"{sum(of(who, k)) / len(of(who, k)):.0f}" for k in ("ttft_p50_ms", "ttft_p99_ms"))
    a, b = of("theirs", "tok_s"), of("ours", "tok_s")
    print(f"{n:>7} {' '.join(f'{x:.0f}' for x in a):>14} {' '.join(f'{x:.0f}' for x in b):>14} {sum(b) / sum(a):>6.2f}"
          f"   {pair('theirs'):>30} {pair('ours'):>16}")
EOF
