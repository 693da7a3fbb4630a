#!/usr/bin/env bash
# Runs every CUDA kernel on the CPU, where its threads are fibers (gte-core/src/backend/cuda/emulator), against a reference
# in double precision: with an address sanitizer, in three orders of the threads, each text alone and in a batch. Needs
# g++ and no GPU. Also says whether the committed PTX is of these sources.
#
# With --break: breaks the kernels in one place after the other (emulator/tests/mutations.txt), and fails if the tests pass.
set -euo pipefail
cd "$(dirname "$0")/../.."
cuda=$PWD/gte-core/src/backend/cuda
out=$PWD/target/cuda-kernels
command -v g++ >/dev/null || { apt-get update -q; apt-get install -y -q g++; }
mkdir -p "$out"
export out

# Compiles and runs test $2 of the kernels in $1; prints what it prints.
run_test() {
  local cuda=$1 name=$2 into=${3:-$out}
  local program=$into/$name
  if [ ! -x "$program" ] || [ -n "$(find "$cuda/kernels" "$cuda/emulator" -name '*.[ch]*' -newer "$program" -print -quit)" ]; then
    g++ -std=c++20 -O1 -g -Wall -Wextra -Werror -Wno-unknown-pragmas -fsanitize=address,undefined -fno-sanitize-recover=all \
      -o "$program" "$cuda/emulator/tests/$name.cpp"
  fi
  timeout "${LIMIT:-600}" "$program"
}
export -f run_test

if [ "${1:-}" = --break ]; then
  only=${2:-.} survived=0
  while IFS='|' read -r name file change; do
    [[ -z $name || $name = \#* ]] && continue
    [[ $name/$file/$change =~ $only ]] || continue
    copy=$(mktemp -d "$out/break.XXXXXX")
    cp -r "$cuda/kernels" "$cuda/emulator" "$copy/"
    sed -i -E "$change" "$copy/$file"
    if cmp -s "$cuda/$file" "$copy/$file"; then
      echo "NOTHING CHANGED  $file: $change"; survived=1
    elif ! (CXXFLAGS='' LIMIT=120 run_test "$copy" "$name" "$copy") >"$copy/log" 2>&1; then
      grep -q 'error:' "$copy/log" && grep -q 'compilation terminated\|g++' "$copy/log" && { echo "DOES NOT COMPILE $file: $change"; survived=1; }
      echo "found     $file: $change: $(grep -m1 -E 'ERROR: Address|runtime error|: .*: ' "$copy/log" | cut -c1-110)"
    else
      echo "NOT FOUND $file: $change"; survived=1
    fi
    rm -rf "$copy"
  done <"$cuda/emulator/tests/mutations.txt"
  exit $survived
fi

(cd "$cuda/kernels" && tail -n +2 ptx/MANIFEST | sha256sum --quiet -c) || {
  echo "the sources have changed since kernels/ptx was made: run $cuda/kernels/ptx.sh" >&2
  exit 1
}
# The longest first.
printf '%s\n' attention attention_f32 norm embedding activation rope pooling heads convert emulator |
  xargs -P "$(nproc)" -I{} bash -euo pipefail -c 'run_test "$0" {}' "$cuda"
