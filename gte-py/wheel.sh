#!/usr/bin/env bash
# The wheel of the Python module for this machine's architecture, for any Linux with glibc 2.28
# (manylinux_2_28), below target/wheels-release; then installed beside nothing but its
# dependencies, and used. Elsewhere than on Linux the wheel is for this system. maturin and zig,
# which links against the old glibc, come from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=target/venv-wheel out=target/wheels-release
[ -x $venv/bin/python ] || python3 -m venv $venv
$venv/bin/pip install -q maturin==1.16.0
for_linux=()
if [ "$(uname -s)" = Linux ]; then
  $venv/bin/pip install -q ziglang==0.16.0
  for_linux=(--zig --target "$(uname -m)-unknown-linux-gnu" --compatibility manylinux_2_28)
fi
rm -rf $out
PATH=$PWD/$venv/bin:$PATH $venv/bin/maturin build -q --release --locked --manifest-path gte-py/Cargo.toml --out $out "${for_linux[@]}"
ls -l $out
rm -rf target/venv-wheel-test
python3 -m venv target/venv-wheel-test
target/venv-wheel-test/bin/pip install -q $out/gte_embed-*.whl
target/venv-wheel-test/bin/python -c '
import gte, importlib.metadata
vectors = gte.Embedder.bundled().encode(["怎么退货？", "How do I return it?"])
assert vectors.shape == (2, 384), vectors.shape
print("gte-embed", importlib.metadata.version("gte-embed"), vectors.shape)
'
