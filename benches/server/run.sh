#!/usr/bin/env bash
# Measures the server under load, with the shape of gte-large-zh and 2 threads, and in the same run
# the bare engine: a single client (also in turn with the engine), 32 and 64 clients, 70 % of the
# server's capacity, five times its capacity, and 10,000 idle connections beside invalid requests.
# Writes benches/record/MACHINE/server-DATE-PRECISION.txt and the charts of the load generator.
# Variables: PRECISION=f32, SECONDS_EACH=60. Arguments are passed to the server.
set -euo pipefail
cd "$(dirname "$0")/../.."
model=target/models/gte-large-zh port=${PORT:-7871} seconds=${SECONDS_EACH:-60} precision=${PRECISION:-f32}
[ -x target/venv-peers/bin/python ] || python3 -m venv target/venv-peers
target/venv-peers/bin/pip install -q -r benches/peers/requirements.txt -r gte-core/tests/requirements-fixtures.txt
[ -e $model/config.json ] || target/venv-peers/bin/python benches/peers/make_model.py gte-large-zh $model
cargo build --release -q --workspace
machine=$(lscpu | awk -F': +' '/^Model name/ {n=$2} /^CPU family/ {f=$2} /^Model:/ {m=$2} END {print tolower(n " family " f " model " m)}' | sed 's/[^a-z0-9]\+/-/g; s/^-//; s/-$//')
out=benches/record/$machine
mkdir -p "$out"
record=$out/server-$(date +%F)-$precision.txt
load() { target/release/load "$@" 2>/dev/null; }
field() { python3 -c 'import json,sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
url=http://127.0.0.1:$port/v1/embedding
server=
start() {
  target/release/gte-server --model $model --precision "$precision" --threads 2 --host 127.0.0.1 --port "$port" --log-format json --drain-delay 0 "$@" 2>/dev/null &
  server=$!
  until curl -sf "http://127.0.0.1:$port/readyz" >/dev/null; do sleep 0.2; kill -0 $server; done
}
stop() { kill -TERM $server; wait $server; }
trap '[ -z "$server" ] || kill -9 $server 2>/dev/null || true' EXIT
{
  echo "gte-large-zh shape, 2 threads, $precision, commit $(git rev-parse --short HEAD), texts of benches/texts-mixed.jsonl, one per request"
  echo "server options: ${*:-none}"
  # The bare engine is measured before and after the server, because the machine's speed drifts.
  echo "bare engine: $(load $model --bare --precision $precision --seconds "$seconds")"
  echo "bare engine, one text at a time: $(load $model --bare --precision $precision --at-once 1 --seconds "$seconds")"
  start "$@"
  echo "1 client, each text in turn with the bare engine: $(load $url --beside $model --precision $precision --seconds "$((2 * seconds))")"
  echo "1 client: $(load $url --clients 1 --seconds "$seconds" --out "$out/server-1-client-$precision")"
  echo "32 clients: $(load $url --clients 32 --seconds "$seconds" --probes --out "$out/server-32-clients-$precision")"
  full=$(load $url --clients 64 --seconds "$seconds" --probes --out "$out/server-64-clients-$precision"); echo "64 clients: $full"
  capacity=$(echo "$full" | field requests_per_second)
  rate() { python3 -c "print($capacity * $1)"; }
  echo "70 % of that, open loop: $(load $url --rate "$(rate 0.7)" --seconds "$seconds" --probes --out "$out/server-70-percent-$precision")"
  echo "five times that, open loop: $(load $url --rate "$(rate 5)" --seconds "$seconds" --probes --out "$out/server-overload-$precision")"
  echo "2,000 bad requests per second beside 10,000 idle connections: $(load $url --shape bad --rate 2000 --idle 10000 --seconds 20 --probes)"
  echo "still serving: $(load $url --clients 8 --seconds 10)"
  echo "memory: $(grep -E 'VmRSS|VmHWM' /proc/$server/status | tr -s '\t \n' ' ')"
  stop
  server=
  echo "bare engine: $(load $model --bare --precision $precision --seconds "$seconds")"
  echo "bare engine, one text at a time: $(load $model --bare --precision $precision --at-once 1 --seconds "$seconds")"
  target/venv-peers/bin/python benches/server/tutorial_server.py $model "$port" 2 >/dev/null 2>&1 &
  server=$!
  until curl -sf "http://127.0.0.1:$port/readyz" >/dev/null; do sleep 0.5; kill -0 $server; done
  echo "FastAPI and sentence-transformers, 1 client: $(load $url --clients 1 --seconds "$seconds")"
  echo "FastAPI and sentence-transformers, 32 clients: $(load $url --clients 32 --seconds "$seconds")"
  kill $server
  server=
  echo; lscpu; rustc -vV
} | tee "$record"
