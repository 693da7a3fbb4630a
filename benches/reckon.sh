#!/usr/bin/env bash
# Reckons what the kernels' inner loops would reach on CPUs that are not at hand, from their
# disassembly and llvm-mca's models: see reckon.py. It builds the kernel tests for this machine and,
# with check_arm.sh, for aarch64. LLVM comes from Debian's package, unpacked in target/check-arm.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/target/check-arm
[ -e "$work/kernels" ] || PARTS=kernels gte-core/tests/check_arm.sh
llvm=$(sed -n 's/^rust=.* llvm=\([0-9]*\) .*/\1/p' gte-core/tests/aarch64.sh)
bin=$work/llvm/usr/lib/llvm-$llvm/bin
if [ ! -e "$bin" ]; then
  mkdir -p "$work/llvm"
  (cd "$work/llvm" && apt-get -q -o APT::Sandbox::User=root download "llvm-$llvm" && dpkg -x ./*.deb . && rm ./*.deb)
fi
for binary in "$(readlink -f "$work/kernels")" "$(gte-core/tests/kernels.sh --binary)"; do
  LD_LIBRARY_PATH=$work/tc/usr/lib/x86_64-linux-gnu python3 benches/reckon.py "$bin" "$binary"
  echo
done
