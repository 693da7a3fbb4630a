#!/usr/bin/env bash
# Runs every CUDA kernel on the CPU, where its threads are fibers
# (gte-core/src/backend/cuda/emulator), and compares it with a reference in double precision: with
# sanitizers, in three orders of the threads, alone and in a batch. Then whole models run with an
# address sanitizer. Also checks that the committed PTX was made from these sources. Needs g++, but
# no GPU.
#
# With --library: builds only the shared library through which the tests of the backend in Rust call
# the kernels, if a source has changed; with --library asan, another one with an address sanitizer.
# Prints its path.
#
# With --break [REGEX]: breaks the kernels in one place after the other
# (emulator/tests/mutations.txt), and fails if a test does not notice.
set -euo pipefail
cd "$(dirname "$0")/../.."
cuda=$PWD/gte-core/src/backend/cuda
out=$PWD/target/cuda-kernels
script=$PWD/gte-core/tests/check_cuda_kernels.sh
limit=300 # seconds per test, which take some seconds each: beyond it, one hangs
command -v g++ >/dev/null || { apt-get update -q; apt-get install -y -q g++; }
mkdir -p "$out"

# compile FOLDER TEST PROGRAM FLAGS...: compiles a test of the kernels in FOLDER.
compile() {
  g++ -std=c++20 -O1 -g1 -Wall -Wextra -Werror -Wno-unknown-pragmas "${@:4}" -o "$3" "$1/emulator/tests/$2.cpp"
}
sanitizers="-fsanitize=address,undefined -fno-sanitize-recover=all"

# within NAME COMMAND...: runs it, and names what has failed or hangs.
within() {
  local code=0
  timeout "$limit" "${@:2}" || code=$?
  case $code in
    0) ;;
    124) echo "$1: still running after $limit s, so it hangs" >&2 ;;
    *) echo "$1: failed with exit status $code" >&2 ;;
  esac
  return $code
}

# Compiles a test if a source has changed, and runs it.
run_test() {
  local program=$out/$1
  if [ ! "$program" -nt "$script" ] || [ -n "$(find "$cuda/kernels" "$cuda/emulator" -name '*.[ch]*' -newer "$program" -print -quit)" ]; then
    compile "$cuda" "$1" "$program" $sanitizers
  fi
  within "kernel test $1" "$program"
}
export cuda out script sanitizers limit
export -f compile within run_test

# library [asan]: builds the shared library of all kernels.
library() (
  local flags=-O2 name=libgte_emulator.so
  [ "${1:-}" != asan ] || { flags="-O1 -g1 -fsanitize=address"; name=libgte_emulator.asan.so; }
  # Several tests may need it at once. The lock is released at the end of this subshell, because the
  # test that `whole_models` starts builds it too.
  exec 9>"$out/library.lock"
  flock -w "$limit" 9 || { echo "$out/library.lock: another process has it for more than $limit s" >&2; exit 1; }
  if [ ! "$out/$name" -nt "$script" ] || [ -n "$(find "$cuda/kernels" "$cuda/emulator" -maxdepth 1 -name '*.[ch]*' -newer "$out/$name" -print -quit)" ]; then
    g++ -std=c++20 $flags -Wno-unknown-pragmas -shared -fPIC -o "$out/$name.new" "$cuda/emulator/library.cpp"
    mv "$out/$name.new" "$out/$name"
  fi
  echo "$out/$name"
)
if [ "${1:-}" = --library ]; then
  library "${2:-}"
  exit
fi

# break_one TEST FILE CHANGE: whether the test fails if FILE is changed. First without sanitizers,
# which compiles faster.
break_one() {
  local copy found='' flags
  copy=$(mktemp -d "$out/break.XXXXXX")
  cp -r "$cuda/kernels" "$cuda/emulator" "$copy/"
  sed -i -E "$3" "$copy/$2"
  if cmp -s "$cuda/$2" "$copy/$2"; then
    found="CHANGES NOTHING"
  else
    for flags in -O1 "$sanitizers"; do
      compile "$copy" "$1" "$copy/program" -Wno-error $flags 2>"$copy/log" || { found="DOES NOT COMPILE"; break; }
      timeout 90 "$copy/program" >"$copy/log" 2>&1 || { found=found; break; }
    done
  fi
  echo "${found:-NOT FOUND} | $1 | $2: $3 | $(grep -m1 -E 'ERROR: |runtime error|: ' "$copy/log" 2>/dev/null | cut -c1-120)"
  rm -rf "$copy"
  [ "$found" = found ]
}

if [ "${1:-}" = --break ]; then
  total=0 survivors=0
  while IFS='|' read -r name file change; do
    [[ -n $name && $name != \#* && $name/$change =~ ${2:-.} ]] || continue
    total=$((total + 1))
    break_one "$name" "$file" "$change" || survivors=$((survivors + 1))
  done <"$cuda/emulator/tests/mutations.txt"
  echo "$((total - survivors)) of $total are found"
  [ $survivors = 0 ]
  exit
fi

(cd "$cuda/kernels" && tail -n +2 ptx/MANIFEST | sha256sum --quiet -c) || {
  echo "the sources have changed since kernels/ptx was made: run $cuda/kernels/ptx.sh" >&2
  exit 1
}
# The backend in Rust with an address sanitizer: each buffer is an allocation of its own, and whole
# models run through all kernels.
whole_models() {
  local program
  program=$(cargo test --release -q --workspace --test cuda --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*cuda-[^"]*\)".*/\1/p' | tail -n 1)
  cd gte-core
  # Rust's allocator keeps some memory until the end.
  within "whole models with an address sanitizer (no_kernel_leaves_its_buffers)" \
    env LD_PRELOAD="$(gcc -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 \
    GTE_TEST_EMULATOR=asan "$program" no_kernel_leaves_its_buffers
}
# The longest first. `asan` is not a test, but the library for whole models.
asan() { library asan >/dev/null; }
export -f library asan
printf '%s\n' "run_test attention" asan "run_test attention_f32" "run_test norm" "run_test embedding" \
  "run_test activation" "run_test rope" "run_test dense" "run_test fp8" "run_test pooling" "run_test emulator" "run_test numbers" |
  xargs -P "$(nproc)" -d '\n' -I{} bash -euo pipefail -c '{}'
whole_models
