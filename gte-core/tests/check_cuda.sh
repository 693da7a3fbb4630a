#!/usr/bin/env bash
# The CUDA backend: its kernels and whole models on the CPU, with an address sanitizer, and the
# kernels compiled to PTX that must be the committed one. The compiler comes in Python wheels: no
# CUDA installation is needed. Where there is a GPU, whole models run on it.
set -euo pipefail
cd "$(dirname "$0")/../.."
gte-core/tests/check_cuda_kernels.sh
gte-core/src/backend/cuda/kernels/ptx.sh --check
cargo test --release --workspace --test cuda --test gpu -- --nocapture
