#!/usr/bin/env bash
# Compares gte in Python with sentence-transformers on the real MiniLM weights, in the environment
# of the peers.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=target/venv-peers
if [ ! -x $venv/bin/python ]; then
  python3 -m venv $venv
  $venv/bin/pip install -q -r benches/peers/requirements.txt
fi
make -s models
cargo build --release -q --workspace
$venv/bin/pip install -q maturin==1.16.0
$venv/bin/maturin build -q --release --manifest-path gte-py/Cargo.toml --out target/wheels-bench
$venv/bin/pip install -q --force-reinstall --no-deps target/wheels-bench/*.whl
env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $venv/bin/python benches/peers/python.py target/models/all-MiniLM-L6-v2 "$@"
