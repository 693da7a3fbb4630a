#!/usr/bin/env bash
# Type-checks the workspace for a system that this machine is not:
#     gte-core/tests/check_elsewhere.sh apple|windows [ARGUMENTS OF CARGO CHECK IN PLACE OF --workspace]
#
# rustup adds the target's standard library to the toolchain. The C code of crates such as `ring`
# and SQLite is compiled by zig, from PyPI, below target/check-elsewhere. For Windows the example
# `search` is linked too, by cargo-zigbuild, and must give in Wine what examples/README.md shows.
set -euo pipefail
cd "$(dirname "$0")/../.."
case ${1:-} in
  apple) target=aarch64-apple-darwin zig=aarch64-macos ;;
  windows) target=x86_64-pc-windows-gnullvm zig=x86_64-windows-gnu ;;
  *) echo "usage: $0 apple|windows" >&2; exit 2 ;;
esac
shift
work=$PWD/target/check-elsewhere
mkdir -p "$work/bin"
if ! "$work/venv/bin/python" -m ziglang version >/dev/null 2>&1; then
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q ziglang==0.16.0
fi
rustup -q target add "$target"

# The crate `cc` names the target in ways that zig does not know.
cat >"$work/bin/cc-$zig" <<END
#!/usr/bin/env bash
arguments=() skip=
for argument in "\$@"; do
  if [ -n "\$skip" ]; then skip=; continue; fi
  case \$argument in
    -arch) skip=1 ;;
    --target=* | -mmacosx-version-min=*) ;;
    *) arguments+=("\$argument") ;;
  esac
done
exec "$work/venv/bin/python" -m ziglang cc -target $zig "\${arguments[@]}"
END
printf '#!/bin/sh\nexec "%s" -m ziglang ar "$@"\n' "$work/venv/bin/python" >"$work/bin/ar"
chmod +x "$work"/bin/*
name=${target//-/_}
export "CC_$name=$work/bin/cc-$zig" "AR_$name=$work/bin/ar"
export CARGO_TARGET_DIR=$work/build ZIG_GLOBAL_CACHE_DIR=$work/zig
[ $# -gt 0 ] || set -- --workspace
cargo check --release --target "$target" "$@"
echo "$target: type-checked"
[ "$zig" = x86_64-windows-gnu ] || exit 0

"$work/venv/bin/pip" install -q cargo-zigbuild==0.24.1
PATH=$work/venv/bin:$PATH cargo zigbuild -q --release --target "$target" -p examples --bin search
wine=/usr/lib/wine/wine64
if [ ! -x $wine ]; then
  [ "$(id -u)" = 0 ] || { echo "$0: $wine is missing: install Debian's package wine64" >&2; exit 1; }
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends wine64 >/dev/null
fi
# Rust's standard library takes random numbers from a library that Wine 8 lacks.
cat >"$work/random.c" <<'END'
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE bytes, SIZE_T length) { return SystemFunction036(bytes, length); }
END
programs=$CARGO_TARGET_DIR/$target/release
"$work/venv/bin/python" -m ziglang cc -target $zig -shared -o "$programs/bcryptprimitives.dll" "$work/random.c" -ladvapi32
export WINEPREFIX=$work/wine WINEDEBUG=-all LC_ALL=C.UTF-8
timeout 300 $wine wineboot -i >/dev/null 2>&1 </dev/null # makes the folder
# The same line comes first as in examples/README.md, with the same score to two digits.
first() { tr -d '\r' | sed -nE '1s/^(0\.[0-9]{2})[0-9]*/\1/p'; }
expected=$(grep -A1 -F -- '--precision f32 examples/data/help.zh.txt' examples/README.md | tail -1 | first)
# To a file: Wine's server outlives the program, and would keep a pipe open.
search() { timeout 120 $wine "$programs/search.exe" "$@" >"$work/shown" 2>/dev/null && first <"$work/shown"; }
shown=$(search --precision f32 examples/data/help.zh.txt "When do I get my money back?")
[ "$shown" = "$expected" ] || { printf '%s\n' "search.exe in Wine shows" "$shown" "and not" "$expected" >&2; exit 1; }
search examples/data/help.zh.txt "坏了的水壶可以退吗？" | grep 退货
echo "search.exe runs in Wine"
