#!/usr/bin/env bash
# Runs the kernel tests, every family's tiny model and the bundled one on emulated ARM CPUs, on
# machines with another architecture: with a compiler for aarch64 and qemu from Debian's packages,
# unpacked in target/check-arm. Nothing is installed. It needs cargo, apt-get and dpkg, and root or
# the right to use apt-get. CPUS names the emulated CPUs, CASES is the number of cases per property
# test.
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

# Packages for arm64 from this machine's own mirrors, with separate package lists, so that those of
# the system do not change.
arm64_package() {
  local apt=$work/apt
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
  : >"$apt/status"
  local options=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists="$apt/lists"
    -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root -o Debug::NoLocking=1)
  apt-get "${options[@]}" -q update
  (cd "$work/packages" && apt-get "${options[@]}" -q download "$@")
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
  arm64_package libstd-rust-web-dev
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
  rm -rf "$work/packages" "$work/apt"
  touch "$work/ready"
fi

target=aarch64-unknown-linux-gnu
export RUSTC=$work/bin/rustc CARGO_BUILD_TARGET=$target CARGO_TARGET_DIR=$work/build CARGO_PROFILE_RELEASE_DEBUG=false
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$work/bin/gcc CC_aarch64_unknown_linux_gnu=$work/bin/gcc
export AR_aarch64_unknown_linux_gnu=$work/bin/ar
# The second implementation, with which tests compare, is most of the build, and does not depend on
# the kernels.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="--cfg gte_without_candle"

# The binary of a test target.
binary_of() {
  cargo test --release -q -p gte-core "$@" --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}
emulated() { "$tools/usr/bin/qemu-aarch64-static" -cpu "$1" -L "$tools/usr/aarch64-linux-gnu" "${@:2}"; }

kernels=$(binary_of --lib)
families=$(binary_of --test families)
cargo build --release -q -p examples --bin embed
embed=$CARGO_TARGET_DIR/$target/release/embed

for cpu in ${CPUS:-max,sve=off neoverse-n1 cortex-a72}; do
  here=scalar,aarch64-neon
  case $cpu in
    max*) here+=,aarch64-dotprod,aarch64-i8mm,aarch64-bf16 ;;
    neoverse-n1) here+=,aarch64-dotprod ;;
  esac
  echo "as $cpu, with $here"
  export GTE_REQUIRE_ISA=$here PROPTEST_CASES=${CASES:-6}
  (cd gte-core && RAYON_NUM_THREADS=1 emulated "$cpu" "$kernels" kernels --test-threads 1)
  (cd gte-core && RAYON_NUM_THREADS=1 emulated "$cpu" "$kernels" every_table_is_had_by_its_name --test-threads 1)
  (cd gte-core && RAYON_NUM_THREADS=1 emulated "$cpu" "$families" --test-threads 1)
  # Each table can be selected by name, or is refused with the names of those that exist.
  for isa in scalar aarch64-neon aarch64-dotprod aarch64-i8mm aarch64-bf16; do
    if [[ ,$here, == *,$isa,* ]]; then
      GTE_ISA=$isa emulated "$cpu" "$embed" "怎么退货？" | cut -c 1-60
    elif answer=$(GTE_ISA=$isa emulated "$cpu" "$embed" "怎么退货？" 2>&1); then
      echo "$isa was not refused on $cpu" >&2
      exit 1
    else
      grep -F "$isa" <<<"$answer" | grep -qF "aarch64-neon"
    fi
  done
done
