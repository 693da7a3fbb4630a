#!/usr/bin/env bash
# Tests the kernels as a crate of their own, which compiles in a minute, for this machine or for
# CARGO_BUILD_TARGET: they need nothing else of gte-core. The crate is made in target/kernels.
#
#   kernels.sh [ARGUMENT]...     runs the kernel tests, with arguments for their binary
#   kernels.sh --binary          compiles them and prints the path of the binary
#   kernels.sh --break [REGEX]   breaks the tables of this architecture in one place after the other
#                                (kernels/tests/mutations.txt), and fails if a test does not notice
set -euo pipefail
cd "$(dirname "$0")/../.."
sources=$PWD/gte-core/src/kernels
target=${CARGO_BUILD_TARGET:-$(uname -m)}
arch=${target%%-*}
crate=$PWD/target/kernels/$arch
export CARGO_TARGET_DIR=$crate/target CARGO_PROFILE_RELEASE_DEBUG=false

restore() { rm -rf "$crate/src/kernels" && cp -rp "$sources" "$crate/src"; }
mkdir -p "$crate/src"
{
  printf '[package]\nname = "kernels"\nedition = "2024"\n[workspace]\n[dependencies]\n'
  grep -E '^(bytemuck|memmap2|ndarray|rayon|tracing) = ' Cargo.toml
  printf '[dev-dependencies]\n'
  grep -E '^proptest = ' Cargo.toml
} >"$crate/Cargo.toml"
cp Cargo.lock "$crate"
[ -e "$crate/src/lib.rs" ] || printf '#![allow(dead_code, unused, unexpected_cfgs)]\nmod kernels;\n' >"$crate/src/lib.rs"
restore

tests() { cargo test --release -q --manifest-path "$crate/Cargo.toml" --lib "$@"; }

# break_one ISA TESTS FILE CHANGE: whether the tests TESTS of the table ISA notice the CHANGE.
break_one() {
  restore
  sed -i -E "$4" "$crate/src/kernels/$3"
  ! cmp -s "$sources/$3" "$crate/src/kernels/$3" || { echo "applies nowhere: $*"; return 1; }
  touch "$crate/src/kernels/$3"
  tests --no-run 2>"$crate/log" || { echo "does not compile: $*"; cat "$crate/log"; return 1; }
  ! GTE_ISA=$1 GTE_REQUIRE_ISA=$1 tests -- "$2" >"$crate/log" 2>&1 || { echo "SURVIVED: $*"; return 1; }
  echo "noticed: $1, $2: $4"
}

case ${1:-} in
  --binary) tests --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' ;;
  --break)
    survivors=0
    while IFS='|' read -r isa names file change; do
      [[ $isa == "$arch"-* && $isa/$names/$file/$change =~ ${2:-.} ]] || continue
      break_one "$isa" "$names" "$file" "$change" || survivors=$((survivors + 1))
    done <"$sources/tests/mutations.txt"
    restore
    [ $survivors = 0 ]
    ;;
  *) tests -- "$@" ;;
esac
