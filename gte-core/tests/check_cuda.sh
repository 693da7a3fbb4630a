#!/usr/bin/env bash
# Tests our kernels on the CPU, and compiles them to PTX that must equal the committed files. Then
# compiles and links gte-core with the feature `cuda`, which is candle. The compiler comes in Python
# wheels, so no CUDA installation is needed. If there is a GPU, the tests of that feature run;
# otherwise they are linked without the driver's library and not started.
set -euo pipefail
cd "$(dirname "$0")/../.."
gte-core/tests/check_cuda_kernels.sh
gte-core/src/backend/cuda/kernels/ptx.sh --check
venv=target/venv-cuda
if ! ls $venv/lib/python3*/site-packages/nvidia/cu13/lib/libcublas.so.* >/dev/null 2>&1; then
  $venv/bin/pip install -q nvidia-cuda-nvcc==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-crt==13.0.88 \
    nvidia-nvvm==13.0.88 nvidia-cublas==13.1.0.3 nvidia-curand==10.4.0.35 nvidia-cuda-nvrtc==13.0.88
fi
cuda=$(cd $venv/lib/python3*/site-packages/nvidia/cu13 && pwd)
ln -sfn lib "$cuda/lib64"
for name in cublas cublasLt cudart curand nvrtc; do
  ln -sf "$(basename "$(ls "$cuda"/lib/lib$name.so.* | head -n 1)")" "$cuda/lib/lib$name.so"
done
# A replacement for the driver's library, which only exists on machines with a driver.
if ! ldconfig -p | grep -q libcuda.so.1; then
  echo | cc -shared -x c - -Wl,-soname,libcuda.so.1 -o "$cuda/lib/libcuda.so"
fi
export CUDA_HOME=$cuda CUDA_PATH=$cuda CUDA_ROOT=$cuda PATH=$cuda/bin:$PATH
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90} NVCC_APPEND_FLAGS=-I$cuda/include LIBRARY_PATH=$cuda/lib LD_LIBRARY_PATH=$cuda/lib
export CARGO_TARGET_DIR=target/cuda
link=(-L "$cuda/lib")
ldconfig -p | grep -q libcuda.so.1 || link+=(-C link-arg=-Wl,--unresolved-symbols=ignore-all)
RUSTFLAGS="${link[*]}" cargo test --release -p gte-core --features cuda --test gpu --no-run
if command -v nvidia-smi >/dev/null && nvidia-smi -L | grep -q GPU; then
  RUSTFLAGS="${link[*]}" cargo test --release -p gte-core --features cuda --test gpu -- --nocapture
else
  echo "compiled and linked; there is no GPU, so the tests of tests/gpu.rs did not run"
fi
