#!/usr/bin/env bash
# Tests the server (target/release/gte-server) with the Python frameworks for retrieval and with
# LangChain's standard tests of embeddings. Installs them under target/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."
venv=target/venv-frameworks
[ -x $venv/bin/python ] || python3 -m venv $venv
# pip needs a quarter of an hour to find versions that fit together.
$venv/bin/pip install -q uv==0.13.9
$venv/bin/uv pip install -q --python $venv/bin/python -r "$here/requirements-frameworks.txt"
$venv/bin/uv pip install -q --python $venv/bin/python --no-deps infinity_client==0.0.78
[ -x target/release/gte-server ] || cargo build --release -q -p gte-server
$venv/bin/python "$here/frameworks.py"
$venv/bin/python "$here/frameworks_rerank.py"
$venv/bin/python "$here/milvus_store.py"
$venv/bin/python "$here/with_server.py" -- $venv/bin/python -m pytest -q -p no:cacheprovider -o asyncio_mode=auto \
  -o asyncio_default_fixture_loop_scope=function "$here/langchain_standard.py"
