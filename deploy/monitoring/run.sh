#!/usr/bin/env bash
# Starts a real Prometheus (Debian's) that scrapes two real servers under load, one with an
# embedder, a reranker and a cache, the other with only the embedder, and evaluates the rules of
# this folder. Then runs every query of the dashboard, none of which may return nothing:
#     deploy/monitoring/run.sh [PICTURE.svg]
# A picture needs matplotlib in the Python of PATH. SECONDS_OF_LOAD is 45 by default.
set -euo pipefail
cd "$(dirname "$0")/../.."
picture=${1:-}; load=${SECONDS_OF_LOAD:-45}
if ! command -v prometheus >/dev/null; then
  [ "$(id -u)" = 0 ] || { echo "install the Debian package prometheus first" >&2; exit 1; }
  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends prometheus >/dev/null
fi
[ -x target/release/gte-server ] || cargo build --release -q -p gte-server
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait 2>/dev/null; rm -rf "$work"' EXIT
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
a=$(free); b=$(free); p=$(free)
target/release/gte-server --host 127.0.0.1 --port "$a" --threads 1 --cache-mb 8 --model embedder=bundled \
  --model reranker=gte-core/tests/fixtures/families/xlmr-reranker 2>"$work/$a.log" &
target/release/gte-server --host 127.0.0.1 --port "$b" --threads 1 --model embedder=bundled 2>"$work/$b.log" &
cp deploy/monitoring/rules.yaml "$work/rules.yaml"
cat > "$work/prometheus.yml" <<EOF
global: {scrape_interval: 2s, evaluation_interval: 5s}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: gte
    static_configs:
      - {targets: ["127.0.0.1:$a"], labels: {namespace: gte, pod: gte-a}}
      - {targets: ["127.0.0.1:$b"], labels: {namespace: gte, pod: gte-b}}
EOF
prometheus --config.file "$work/prometheus.yml" --storage.tsdb.path "$work/data" --web.listen-address "127.0.0.1:$p" 2>"$work/prometheus.log" &
for url in "127.0.0.1:$a/readyz" "127.0.0.1:$b/readyz" "127.0.0.1:$p/-/ready"; do
  for _ in $(seq 150); do curl -fs -o "$work/ready" "http://$url" && break; sleep 0.2; done
  curl -fs -o "$work/ready" "http://$url" || { echo "$url is not ready" >&2; cat "$work"/*.log >&2; exit 1; }
done
python3 deploy/stress_test.py "http://127.0.0.1:$a/v1/embedding" -c 4 --seconds "$load" --repeat 4 --distinct 60 & one=$!
python3 deploy/stress_test.py "http://127.0.0.1:$b/v1/embedding" -c 2 --seconds "$load" & two=$!
python3 deploy/stress_test.py "http://127.0.0.1:$a/v1/rerank" -c 1 --seconds "$load" --repeat 2 --distinct 80 & three=$!
wait $one $two $three
python3 deploy/monitoring/drill.py "http://127.0.0.1:$p" $picture
# The recording rules have each model under its name.
for rule in gte:requests:rate5m gte:request_seconds:p99_5m gte:tokens:rate5m gte:queued_seconds gte:cache_hits:ratio5m; do
  models=$(curl -fsG "http://127.0.0.1:$p/api/v1/query" --data-urlencode "query=count by (model) ($rule)" \
    | python3 -c 'import json, sys; print(*sorted(r["metric"].get("model", "") for r in json.load(sys.stdin)["data"]["result"]))')
  case " $models " in *" embedder reranker "*) ;; *) echo "$rule does not have every model: $models" >&2; exit 1 ;; esac
done
# All rules are evaluated, and no alert fires while everything works.
curl -fs "http://127.0.0.1:$p/api/v1/rules" | python3 -c '
import json, sys
rules = [rule for group in json.load(sys.stdin)["data"]["groups"] for rule in group["rules"]]
bad = [rule["name"] for rule in rules if rule["health"] != "ok" or rule.get("state") == "firing"]
print(len(rules), "rules, all evaluated, none firing" if not bad else f"failed or firing: {bad}")
sys.exit(bool(bad) or not rules)'
