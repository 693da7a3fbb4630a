#!/usr/bin/env bash
# Runs the server with the real MiniLM weights under mixed load for $1 minutes. Resident memory is
# measured after each tenth of the time, and must stay within 2 % of the first value.
set -euo pipefail
cd "$(dirname "$0")/../.."
minutes=$1 port=${PORT:-7872}
cargo build --release -q --workspace
target/release/gte-server --model target/models/all-MiniLM-L6-v2 --host 127.0.0.1 --port "$port" --log-format json --drain-delay 0 2>/dev/null &
server=$!
trap 'kill -9 $server 2>/dev/null || true' EXIT
until curl -sf "http://127.0.0.1:$port/readyz" >/dev/null; do sleep 0.2; kill -0 $server; done
target/release/load "http://127.0.0.1:$port/v1/embedding" --clients 32 --seconds $((minutes * 60)) --warmup 1 --probes > target/soak.json 2>/dev/null &
load=$!
resident() { awk '/VmRSS/ {print $2}' /proc/$server/status; }
first=
for tenth in 1 2 3 4 5 6 7 8 9; do
  sleep $((minutes * 6))
  now=$(resident)
  first=${first:-$now}
  echo "after $((tenth * minutes * 6)) s: $now kB"
done
wait $load
python3 - "$first" "$now" target/soak.json <<'PY'
import json, sys
first, last = int(sys.argv[1]), int(sys.argv[2])
result = json.load(open(sys.argv[3]))
drift = last / first - 1
print(f"answered {result['answered']}, failed {result['failed']}, {result['tokens_per_second']} tokens/s, p99 {result['p99_ms']} ms, drift {drift:+.2%}")
sys.exit(abs(drift) > 0.02 or bool(result["failed"]))
PY
