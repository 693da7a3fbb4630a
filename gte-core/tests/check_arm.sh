#!/usr/bin/env bash
# Tests on emulated ARM CPUs, on machines with another architecture: the kernels, every family's
# tiny model, the bundled model in the examples, the server and the Python module. The compiler for
# aarch64 and qemu are those of aarch64.sh. It also needs curl and python3.
#
# CPUS names the emulated CPUs, CASES is the number of cases per property test, and PARTS selects
# what is tested: kernels, models, programs, wheel, and mutations, which is left out by default and
# breaks each table in turn.
#
# It takes an hour on two busy cores: 25 minutes for compiling tests and programs, 3 to 9 for the
# models on each CPU, and the wheel. A second run compiles nothing.
#
# `max` has every table. neoverse-n1 (Graviton 2, Altra) has dot products but nothing newer, and
# cortex-a72 (Graviton 1, Raspberry Pi 4) only NEON: the tests check that the other tables are found
# to be missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
. gte-core/tests/aarch64.sh

parts=${PARTS:-kernels models programs wheel}
has_part() { [[ " $parts " == *" $1 "* ]]; }
started=$SECONDS
time_of() { echo "$1: $((SECONDS - started)) s"; started=$SECONDS; }

# The binary of a test target.
binary_of() {
  cargo test --release -q -p gte-core "$@" --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

# The tests of a binary that match a name, if there is one. No match is a failure.
run_tests() {
  local cpu=$1
  shift
  (cd gte-core && RAYON_NUM_THREADS=1 emulated "$cpu" "$@" --test-threads 1) | tee "$work/tests.log"
  ! grep -q '^running 0 tests' "$work/tests.log"
}

if has_part kernels; then
  kernels=$(gte-core/tests/kernels.sh --binary)
  ln -sf "$kernels" "$work/kernels" # for benches/reckon.sh
  time_of "compiling the kernel tests"
fi
if has_part models; then
  families=$(binary_of --test families)
  bundled=$(binary_of --test bundled)
  bits=$(binary_of --test bits)
  time_of "compiling the tests of models"
fi
if has_part programs; then
  cargo build --release -q -p examples -p gte-server --bin embed --bin search --bin gte-server
  programs=$CARGO_TARGET_DIR/$target/release
  time_of "compiling the programs"
fi

for cpu in ${CPUS:-max,sve=off neoverse-n1 cortex-a72}; do
  here=scalar,aarch64-neon
  case $cpu in
    max*) here+=,aarch64-dotprod,aarch64-i8mm,aarch64-bf16 ;;
    neoverse-n1) here+=,aarch64-dotprod ;;
  esac
  echo "as $cpu, with $here"
  export GTE_REQUIRE_ISA=$here PROPTEST_CASES=${CASES:-6}
  if has_part kernels; then
    run_tests "$cpu" "$kernels"
    time_of "kernels as $cpu"
  fi
  if has_part models; then
    run_tests "$cpu" "$families"
    run_tests "$cpu" "$bundled" vectors_of_pytorch
    run_tests "$cpu" "$bits" # the same vectors as on x86-64
    time_of "models as $cpu"
  fi
  if has_part programs; then
    # Each table can be selected by name, or is refused with the names of those that exist.
    for isa in scalar aarch64-neon aarch64-dotprod aarch64-i8mm aarch64-bf16; do
      if [[ ,$here, == *,$isa,* ]]; then
        GTE_ISA=$isa emulated "$cpu" "$programs/embed" "怎么退货？" | cut -c 1-60
      elif answer=$(GTE_ISA=$isa emulated "$cpu" "$programs/embed" "怎么退货？" 2>&1); then
        echo "$isa was not refused on $cpu" >&2
        exit 1
      else
        grep -F "$isa" <<<"$answer" | grep -qF "aarch64-neon"
      fi
    done
    emulated "$cpu" "$programs/search" -k 1 examples/data/help.zh.txt "我忘了密码怎么办" | grep -F "忘记密码"
    time_of "programs as $cpu"
  fi
done

if has_part programs; then
  port=18431
  # Without `emulated`, whose process would be a shell's, and not get the signal.
  "$qemu" -cpu max,sve=off -L "$libc" "$programs/gte-server" --port $port >"$work/server.log" 2>&1 &
  server=$!
  trap 'kill $server 2>/dev/null || true' EXIT
  for _ in $(seq 300); do
    curl -sf "http://127.0.0.1:$port/health" >/dev/null && break
    kill -0 $server || { cat "$work/server.log" >&2; exit 1; }
    sleep 1
  done
  curl -sf "http://127.0.0.1:$port/v1/embeddings" -H 'content-type: application/json' \
    -d '{"model": "bundled", "input": ["怎么退货？", "How do I return it?"]}' >"$work/answer.json"
  python3 -c 'import json, sys; a = json.load(sys.stdin)["data"]; assert [len(e["embedding"]) for e in a] == [384, 384]' <"$work/answer.json"
  echo "the server: $(cut -c 1-100 "$work/answer.json")"
  kill $server
  wait $server || { cat "$work/server.log" >&2; exit 1; }
  time_of "the server"
fi

# The wheel is imported by Debian's Python for arm64.
if has_part wheel; then
  python=$work/python
  if [ ! -e "$python/ready" ]; then
    rm -rf "$python"
    arm64_packages install "$python/packages" python3.11 libstdc++6
    for package in "$python"/packages/*.deb; do dpkg -x "$package" "$python/root"; done
    rm -rf "$python/packages"
    python3 -m venv "$python/venv"
    "$python/venv/bin/pip" install -q maturin==1.16.0
    "$python/venv/bin/pip" install -q --target "$python/site" --no-deps --only-binary=:all: --python-version 3.11 \
      --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 numpy==2.2.6
    touch "$python/ready"
  fi
  rm -rf "$work/wheels" "$python/gte"
  # Only for this Python: a published wheel is linked against an older glibc, by gte-py/wheel.sh.
  "$python/venv/bin/maturin" build -q --release --compatibility linux --target $target --manifest-path gte-py/Cargo.toml \
    --out "$work/wheels"
  "$python/venv/bin/python" -m zipfile -e "$work"/wheels/*.whl "$python/gte"
  PYTHONPATH=$python/gte:$python/site "$tools/usr/bin/qemu-aarch64-static" -cpu max,sve=off -L "$python/root" \
    "$python/root/usr/bin/python3.11" -c '
import platform, gte
vectors = gte.Embedder.bundled().encode(["怎么退货？", "How do I return it?", "今天下雨。"])
assert platform.machine() == "aarch64" and vectors.shape == (3, 384), (platform.machine(), vectors.shape)
assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2], vectors @ vectors.T
print("the wheel:", platform.machine(), vectors[0][:4])'
  time_of "the wheel"
fi

if has_part mutations; then
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$qemu -cpu max,sve=off -L $libc" PROPTEST_CASES=${CASES:-6} \
    gte-core/tests/kernels.sh --break
  time_of "mutations"
fi
