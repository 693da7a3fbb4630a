#!/usr/bin/env bash
# Ours against its peers on a checkpoint in the shape of gte-large-zh, in one run and in turn; makes what it needs under target/.
# Arguments are passed to compare.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=target/venv-peers model=target/models/gte-large-zh-shape
if [ ! -x $venv/bin/python ]; then
  python3 -m venv $venv
  $venv/bin/pip install -q -r benches/peers/requirements.txt
fi
[ -e $model/config.json ] || $venv/bin/python benches/peers/make_model.py large $model
cargo build --release -q --workspace
# Settings meant for an old OpenBLAS would slow a peer.
env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $venv/bin/python benches/peers/compare.py $model "$@"
