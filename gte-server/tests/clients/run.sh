#!/usr/bin/env bash
# Tests the server (target/release/gte-server, which `cargo test` builds too) with its real clients:
# the official ones, also in a browser, a fuzzer for its OpenAPI document, and a proxy. The Python
# frameworks, which take minutes to install, are in frameworks.sh. Installs what it needs: Python
# and Node packages under target/, Chromium and haproxy from Debian.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."
venv=target/venv-clients node=target/node-clients
for package in chromium haproxy libfaketime; do
  command -v $package >/dev/null && continue
  ls /usr/lib/*/faketime/$package.so.1 >/dev/null 2>&1 && continue
  [ "$(id -u)" = 0 ] || { echo "install the Debian package $package first" >&2; exit 1; }
  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $package >/dev/null
done
# For Chinese texts in the screenshots.
fc-list :lang=zh 2>/dev/null | grep -q . || [ "$(id -u)" != 0 ] || DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends fonts-noto-cjk >/dev/null
[ -x $venv/bin/python ] || python3 -m venv $venv
$venv/bin/pip install -q -r "$here/requirements.txt"
# It requires an older httpx than the others, but works with theirs.
$venv/bin/pip install -q --no-deps infinity_client==0.0.78
mkdir -p $node && cp "$here"/package.json "$here"/*.mjs $node/
(cd $node && npm install --silent --no-audit --no-fund --no-package-lock)

[ -x target/release/gte-server ] || cargo build --release -q -p gte-server
python=$venv/bin/python
$python "$here/openai_python.py"
$python "$here/with_server.py" -- node $node/openai_node.mjs URL
$python "$here/frameworks.py" huggingface_hub
$python "$here/rerank.py"
$python "$here/rerank_apps.py"
$python "$here/outputs.py"
$python "$here/with_server.py" -- node $node/frameworks.mjs URL
GTE_API_KEYS=a-key $python "$here/with_server.py" --cors-origin '*' -- node $node/openai_browser.mjs URL a-key
mkdir -p target/screenshots
$python "$here/with_server.py" -- node $node/page.mjs URL target/screenshots
families=gte-core/tests/fixtures/families
$python "$here/with_server.py" --model bundled --model reranker=$families/xlmr-reranker --model m3=$families/bge-m3 --model labels=$families/bert-classifier-3 \
  -- node $node/page.mjs URL target/screenshots
$python "$here/openapi_document.py"
# Whatever is sent, there must be no status 5xx and nothing undocumented. Seed and number of
# examples are fixed. First an embedder with a reranker; then each of them alone, because a single
# model answers to any name, so that more requests get as far as a result.
fuzz() {
  local name; local -a models=(); for name in $1; do models+=(--model "$name=$families/$name"); done
  $python "$here/with_server.py" "${models[@]}" -- $venv/bin/schemathesis run URL/openapi.json --seed 11 --max-examples "${EXAMPLES:-40}" \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance --no-color "${@:2}"
}
fuzz "bge-m3 xlmr-reranker"
fuzz bge-m3 --include-path-regex '^/(v1/outputs|v1/embed|v2/embed|v1/embeddings|embed|embed_all|embed_sparse)$'
fuzz xlmr-reranker --include-path-regex '^/(rerank|score|predict)$'
$python "$here/restart.py" --seconds "${RESTART_SECONDS:-15}"
$python "$here/drills.py"
$python "$here/two_models.py"
