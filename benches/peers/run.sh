#!/usr/bin/env bash
# Compares our engine with its peers on checkpoints of true shapes. Creates what it needs under
# target/. SHAPE and PRECISION select some of them. Arguments are passed to plan.py, which explains
# more:
#     benches/peers/run.sh prepare          an hour or more, on a machine that may be busy
#     benches/peers/run.sh measure          half an hour on a quiet machine
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
# Settings that are meant for an old OpenBLAS would slow down a peer.
exec env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $venv/bin/python benches/peers/plan.py \
  ${SHAPE:+--shape "$SHAPE"} ${PRECISION:+--precision "$PRECISION"} "$@"
