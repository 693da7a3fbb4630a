#!/usr/bin/env bash
# Two models in one server: an embedder with the shape of bge-m3 and a reranker with that of
# bge-reranker-base, int8, two threads. Measures what each of them achieves alone and beside the
# other, how long a query waits while documents are ranked, what loading the second model costs the
# first, memory, and what a cache saves for repeated questions. Writes
# benches/record/MACHINE/models-DATE.txt. Variables: SECONDS_EACH=20; EMBEDDER and RERANKER are
# directories.
set -euo pipefail
cd "$(dirname "$0")/../.."
embedder=${EMBEDDER:-target/models/bge-m3} reranker=${RERANKER:-target/models/bge-reranker-base}
seconds=${SECONDS_EACH:-20} precision=${PRECISION:-int8} port=${PORT:-7872}
url=http://127.0.0.1:$port
machine=$(lscpu | awk -F': +' '/^Model name/ {n=$2} /^CPU family/ {f=$2} /^Model:/ {m=$2} END {print tolower(n " family " f " model " m)}' | sed 's/[^a-z0-9]\+/-/g; s/^-//; s/-$//')
mkdir -p "benches/record/$machine"
record=benches/record/$machine/models-$(date +%F).txt
server=
trap '[ -z "$server" ] || kill -9 $server 2>/dev/null || true' EXIT
start() {
  target/release/gte-server --precision "$precision" --threads 2 --host 127.0.0.1 --port "$port" --log-format json --drain-delay 0 "$@" 2>/dev/null &
  server=$!
  until curl -sf "$url/livez" >/dev/null; do sleep 0.2; kill -0 $server; done
}
ready() { until curl -sf "$url/readyz" >/dev/null; do sleep 0.2; kill -0 $server; done; }
stop() { kill -TERM $server; wait $server || true; server=; }
load() { target/release/load "$@" 2>/dev/null | python3 -c 'import json,sys; r=json.load(sys.stdin); print({k: r[k] for k in ("answered","refused","failed","tokens_per_second","p50_ms","p99_ms")})'; }
embed() { load "$url/v1/embeddings" --shape openai --warmup 3 --seconds "$seconds" "$@"; }
rank() { load "$url/rerank" --shape rerank --warmup 3 --seconds "$seconds" --texts target/passages.jsonl "$@"; }
memory() { grep -E 'VmRSS|VmHWM' /proc/$server/status | tr -s '\t \n' ' '; }
metric() { curl -s "$url/metrics" | grep -E "^($1)" | tr '\n' ' '; }
# Passages of about 200 characters, and questions of 16 tokens.
python3 - <<'P'
import json
lines = [json.loads(line) for line in open("benches/texts-mixed.jsonl", encoding="utf8")]
joined = "".join(lines)
with open("target/passages.jsonl", "w", encoding="utf8") as f:
    for i in range(2000):
        at = i * 97 % (len(joined) - 400)
        f.write(json.dumps(joined[at:at + 200], ensure_ascii=False) + "\n")
with open("target/questions.jsonl", "w", encoding="utf8") as f:
    for i in range(2000):
        at = i * 61 % (len(joined) - 400)
        f.write(json.dumps(joined[at:at + 14], ensure_ascii=False) + "\n")
P
questions="--texts target/questions.jsonl"
{
  echo "bge-m3's shape and bge-reranker-base's, seeded weights, 2 threads, $precision, commit $(git rev-parse --short HEAD)"
  start --model "$embedder"; ready
  echo "embedder alone, one model in the server: $(embed --clients 8)"
  echo "one client, questions of 16 tokens: $(embed --clients 1 $questions)"
  echo "memory: $(memory)"; stop
  start --model "$reranker"; ready
  echo "reranker alone, one model in the server, 5 passages: $(rank --clients 2 --documents 5)"
  echo "memory: $(memory)"; stop
  start --model m="$embedder" --model r="$reranker"
  loading=$(target/release/load "$url/v1/embeddings" --shape openai --model m $questions --clients 1 --warmup 0.1 --seconds 4 2>/dev/null)
  ready
  echo "one client of the embedder while the reranker is loaded: $loading"
  echo "both in one server"
  both_embedder=$(embed --clients 8 --model m); echo "embedder alone: $both_embedder"
  both_reranker=$(rank --clients 2 --documents 5 --model r); echo "reranker alone: $both_reranker"
  embed --clients 8 --model m >target/half-embedder & e=$!
  echo "reranker beside it: $(rank --clients 2 --documents 5 --model r)"; wait $e
  echo "embedder beside it: $(cat target/half-embedder)"
  # Half of what each achieves alone, with requests that arrive at random.
  half() { python3 -c 'import sys,ast; print(ast.literal_eval(sys.argv[1])["answered"] / float(sys.argv[2]) / 2)' "$1" "$seconds"; }
  embed --rate "$(half "$both_embedder")" --model m >target/half-embedder & e=$!
  echo "half of the reranker's rate: $(rank --rate "$(half "$both_reranker")" --documents 5 --model r)"; wait $e
  echo "with half of the embedder's rate: $(cat target/half-embedder)"
  rank --clients 1 --documents 100 --model r >target/half-reranker & e=$!
  echo "one client, questions of 16 tokens, beside a ranking of 100 passages: $(embed --clients 1 $questions --model m)"; wait $e
  echo "the ranking: $(cat target/half-reranker)"
  echo "memory: $(memory)"; stop
  for cache in 0 64; do
    start --model "$embedder" --cache-mb $cache; ready
    echo "questions by Zipf's law (s = 1.0, 100,000 of them), cache of $cache MB: $(embed --clients 8 --zipf 1.0 $questions)"
    echo "  $(metric 'gte_tokens_total|gte_cache_hits_total|gte_cache_misses_total|gte_cache_bytes')"; stop
  done
  echo; lscpu; rustc -vV
} | tee "$record"
