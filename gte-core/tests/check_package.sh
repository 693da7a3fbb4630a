#!/usr/bin/env bash
# The crates that could be published, as their tarballs hold them: packs gte-core and the bundled
# model, unpacks them into a copy of the workspace, and compiles and runs the documentation's
# examples of gte-core there. All else of the workspace, Cargo.lock and the build folder are this
# checkout's, so that no dependency is compiled again. The unit tests and those in tests/ are no
# part of it: they read fixtures that stay in the repository.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD work=$PWD/target/package/check limit=1000000 # bytes of gte-core's tarball
version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
rm -rf "$work"
mkdir -p "$work"
# Without a lock file in them: cargo would look for the bundled model on crates.io, where it is not.
cargo package -q --no-verify --allow-dirty --exclude-lockfile -p gte-bundled-model -p gte-core
tarball=target/package/gte-core-$version.crate
size=$(stat -c %s "$tarball")
echo "gte-core: $size bytes, the bundled model: $(stat -c %s "target/package/gte-bundled-model-$version.crate")"
[ "$size" -le $limit ] || { echo "$tarball is larger than $limit bytes" >&2; tar -tvf "$tarball" | sort -k 3 -n | tail >&2; exit 1; }

tar -x -C "$work" -f "$tarball"
mv "$work/gte-core-$version" "$work/gte-core"
tar -x -C "$work/gte-core" -f "target/package/gte-bundled-model-$version.crate"
mv "$work/gte-core/gte-bundled-model-$version" "$work/gte-core/bundled"
for file in LICENSE src/lib.rs; do
  [ -f "$work/gte-core/$file" ] && [ -f "$work/gte-core/bundled/$file" ] || { echo "a tarball lacks $file" >&2; exit 1; }
done
cp Cargo.toml Cargo.lock "$work"
for member in gte-server gte-py examples benches docs; do ln -s "$root/$member" "$work/$member"; done
# The tarball names the bundled model by its version, as crates.io would have it. Members that are
# not packed only select the features of dependencies, so they are compiled without optimization.
{
  printf '\n[patch.crates-io]\ngte-bundled-model = { path = "gte-core/bundled" }\n'
  printf '\n[profile.release.package.%s]\nopt-level = 0\n' gte-server gte-py examples document-search benches
} >>"$work/Cargo.toml"
cd "$work"
CARGO_TARGET_DIR=$root/target cargo test --release --workspace --doc
