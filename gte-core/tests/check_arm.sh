#!/usr/bin/env bash
# Tests on emulated ARM CPUs, on machines with another architecture: the kernels, every family's
# tiny model, the bundled model in the examples, the server and the Python module. The compiler for
# aarch64 and qemu come from Debian's packages, unpacked in target/check-arm. Nothing is installed.
# It needs cargo, apt-get, dpkg, curl and python3, and root or the right to use apt-get.
#
# CPUS names the emulated CPUs, CASES is the number of cases per property test, and PARTS selects
# what is tested: kernels, models, programs, wheel, and mutations, which is left out by default and
# breaks each table in turn.
#
# `max` has every table. neoverse-n1 (Graviton 2, Altra) has dot products but nothing newer, and
# cortex-a72 (Graviton 1, Raspberry Pi 4) only NEON: the tests check that the other tables are found
# to be missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$PWD/target/check-arm
tools=$work/tc
# Debian's rustc matches Debian's std for arm64; rustup's does not. The version is part of the
# package's name.
rust=1.96 llvm=22 gcc=12

# Downloads packages for arm64 to a folder, from this machine's own mirrors, with separate package
# lists, so that those of the system do not change. `download` fetches these packages alone,
# `install` also what they depend on, without installing anything.
arm64_packages() {
  local how=$1 to=$2 apt=$work/apt
  shift 2
  mkdir -p "$to" "$apt/lists/partial" "$apt/cache/archives/partial"
  : >"$apt/status"
  local options=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists="$apt/lists"
    -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root -o Debug::NoLocking=1)
  apt-get "${options[@]}" -q update
  case $how in
    download) (cd "$to" && apt-get "${options[@]}" -q download "$@") ;;
    install)
      apt-get "${options[@]}" -q -y --download-only --no-install-recommends install "$@"
      mv "$apt"/cache/archives/*.deb "$to"
      ;;
  esac
  rm -rf "$apt"
}

if [ ! -e "$work/ready" ]; then
  rm -rf "$tools" "$work/packages"
  mkdir -p "$tools" "$work/bin" "$work/packages"
  apt-get -q update
  (cd "$work/packages" && apt-get -q -o APT::Sandbox::User=root download \
    rustc-web libstd-rust-web-$rust libstd-rust-web-dev libllvm$llvm \
    gcc-$gcc-aarch64-linux-gnu gcc-aarch64-linux-gnu cpp-$gcc-aarch64-linux-gnu binutils-aarch64-linux-gnu \
    libc6-arm64-cross libc6-dev-arm64-cross linux-libc-dev-arm64-cross libgcc-$gcc-dev-arm64-cross \
    libgcc-s1-arm64-cross qemu-user-static)
  arm64_packages download "$work/packages" libstd-rust-web-dev
  for package in "$work"/packages/*.deb; do
    case $package in
      *qemu-user-static*) dpkg --fsys-tarfile "$package" | tar -x -C "$tools" ./usr/bin/qemu-aarch64-static ;;
      *) dpkg -x "$package" "$tools" ;;
    esac
  done
  # A linker script that contains the path where the package would be installed.
  sed -i 's#/usr/aarch64-linux-gnu/lib/##g' "$tools/usr/aarch64-linux-gnu/lib/libc.so"
  for program in rustc=rustc gcc=aarch64-linux-gnu-gcc ar=aarch64-linux-gnu-ar; do
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$tools/usr/lib/x86_64-linux-gnu" "$tools/usr/bin/${program#*=}" \
      >"$work/bin/${program%%=*}"
    chmod +x "$work/bin/${program%%=*}"
  done
  "$work/bin/rustc" --version | grep -qF "rustc $rust." || { echo "rustc-web is no longer $rust: change it here" >&2; exit 1; }
  rm -rf "$work/packages"
  touch "$work/ready"
fi

target=aarch64-unknown-linux-gnu
export RUSTC=$work/bin/rustc CARGO_BUILD_TARGET=$target CARGO_TARGET_DIR=$work/build CARGO_PROFILE_RELEASE_DEBUG=false
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$work/bin/gcc CC_aarch64_unknown_linux_gnu=$work/bin/gcc
export AR_aarch64_unknown_linux_gnu=$work/bin/ar
# The second implementation, with which tests compare, is most of the build, and does not depend on
# the kernels.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="--cfg gte_without_candle"

parts=${PARTS:-kernels models programs wheel}
has_part() { [[ " $parts " == *" $1 "* ]]; }
started=$SECONDS
time_of() { echo "$1: $((SECONDS - started)) s"; started=$SECONDS; }
qemu=$tools/usr/bin/qemu-aarch64-static libc=$tools/usr/aarch64-linux-gnu
emulated() { "$qemu" -cpu "$1" -L "$libc" "${@:2}"; }

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
  emulated max,sve=off "$programs/gte-server" --port $port >"$work/server.log" 2>&1 &
  server=$!
  trap 'kill $server 2>/dev/null || true' EXIT
  for _ in $(seq 120); do
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
