#!/usr/bin/env bash
# Type-checks the workspace for a system that this machine is not:
#     gte-core/tests/check_elsewhere.sh apple|windows [ARGUMENTS OF CARGO CHECK IN PLACE OF --workspace]
#
# rustup adds the target's standard library to the toolchain. The C code of crates such as `ring`
# and SQLite is compiled by zig, from PyPI, below target/check-elsewhere. Nothing is linked or run:
# `cargo check` finds what does not compile there.
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
