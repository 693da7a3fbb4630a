#!/usr/bin/env bash
# The server (target/release/gte-server) against the Python frameworks that retrieval is built with, and LangChain's standard tests of
# embeddings. Installs them under target/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."
venv=target/venv-frameworks
[ -x $venv/bin/python ] || python3 -m venv $venv
$venv/bin/pip install -q -r "$here/requirements-frameworks.txt"
[ -x target/release/gte-server ] || cargo build --release -q -p gte-server
$venv/bin/python "$here/frameworks.py"
$venv/bin/python "$here/with_server.py" -- $venv/bin/python -m pytest -q -p no:cacheprovider -o asyncio_mode=auto \
  -o asyncio_default_fixture_loop_scope=function "$here/langchain_standard.py"
