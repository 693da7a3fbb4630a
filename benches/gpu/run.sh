#!/usr/bin/env bash
# Everything that is measured on a GPU, in one call of at most eight minutes: correctness on the
# true shapes of five families, tokens per second on the workloads of benches/workloads.json and two
# larger ones beside transformers in f16 with SDPA, one query with and without a graph, the time of
# each kernel, the share of the matrix products' peak, and our CPU engine with 1 to 16 threads.
#
#     benches/gpu/run.sh --build [DIR]       here: the stripped binary for the other machine, in DIR
#                                            (default: target/gpu-bench)
#     benches/gpu/run.sh [DIR] [RECORDS]     there: measures with DIR/forward; writes
#                                            RECORDS/DATE-gpu.{txt,json}
#     benches/gpu/run.sh --dry-run           here: the same on tiny models and a GPU that the CPU
#                                            emulates
#
# The machine with the GPU needs python3 with torch, transformers and safetensors, NVIDIA's driver,
# and libcublasLt.so.12 or .13 (PyTorch's own is found). Nothing is built or downloaded there.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-}" = --build ]; then
  to=${2:-target/gpu-bench}
  cargo build --release -q --workspace --bin forward
  mkdir -p "$to"
  strip -o "$to/forward" target/release/forward
  # It starts without anything of this environment, and without a driver.
  (program=$(realpath "$to/forward") && cd / && env -i "$program" --help >/dev/null)
  # A machine with an older glibc cannot start it.
  glibc=$(objdump -T "$to/forward" | grep -o 'GLIBC_[0-9.]*' | sort -V | tail -n 1)
  echo "$to/forward: $(stat -c %s "$to/forward") bytes, needs $glibc and $(ldd "$to/forward" | grep -o '^[^(]*=>' | tr -d '=>\t' | xargs)"
  echo "the other machine needs it and the files of the repository, $(git ls-files -z | du -cb --files0-from=- | tail -n 1 | cut -f 1) bytes"
  exit
fi
if [ "${1:-}" = --dry-run ]; then
  cargo build --release -q --workspace --bin forward --features benches/emulated-gpu
  library=$(gte-core/tests/check_cuda_kernels.sh --library)
  [ -x target/venv-fixtures/bin/python ] || python3 -m venv target/venv-fixtures
  target/venv-fixtures/bin/python -m pip install -q -r gte-core/tests/requirements-fixtures.txt
  exec target/venv-fixtures/bin/python benches/gpu/measure.py --forward target/release/forward \
    --emulator "$library" --out target/gpu-dry-run --seconds 3600
fi
# PyTorch's wheels have the library in a folder that no loader searches.
found=$(python3 -c 'import glob, site; print(":".join({p.rsplit("/", 1)[0] for s in site.getsitepackages() for p in glob.glob(s + "/nvidia/**/libcublasLt.so.1[23]", recursive=True)}))')
export LD_LIBRARY_PATH=${found:+$found:}${LD_LIBRARY_PATH:-}
export CUDA_CACHE_PATH=${CUDA_CACHE_PATH:-${TMPDIR:-/tmp}/cuda-cache}
exec python3 benches/gpu/measure.py --forward "${1:-target/gpu-bench}/forward" --out "${2:-benches/record/gpu}"
