#!/usr/bin/env bash
# Ours against its peers on checkpoints of true shapes; makes what it needs under target/.
# SHAPE and PRECISION choose some of them; arguments are passed to plan.py, which says more:
#     benches/peers/run.sh prepare          an hour or more, on a machine that may be busy
#     benches/peers/run.sh measure          half an hour of a quiet one
#     benches/peers/run.sh memory clean
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=target/venv-peers
if [ ! -e $venv/ready ]; then
  python3 -m venv $venv
  $venv/bin/pip install -q -r benches/peers/requirements.txt \
    -r benches/peers/requirements-shapes.txt -r gte-core/tests/requirements-fixtures.txt
  touch $venv/ready
fi
cargo build --release -q --workspace --bin forward
# Settings meant for an old OpenBLAS would slow a peer.
exec env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $venv/bin/python benches/peers/plan.py \
  ${SHAPE:+--shape "$SHAPE"} ${PRECISION:+--precision "$PRECISION"} "$@"
