#!/usr/bin/env bash
# Whether gte-core's public API breaks what the last release promised, by cargo-semver-checks:
#     gte-core/tests/check_semver.sh [TAG OR COMMIT = the last tag v* before this commit]
# `make lint` runs it. It takes no time until there is a release; then it compiles the tool once,
# below target/tools, since no package registry has its binary, and documents both versions.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=0.49.0 # the newest for rustc 1.91 and later
baseline=${1:-$(git describe --tags --abbrev=0 --match 'v*' HEAD^ 2>/dev/null || true)}
if [ -z "$baseline" ]; then
  echo "public API not compared: there is no release before this commit (a tag v*); make semver BASELINE=COMMIT compares with a commit"
  exit 0
fi
tool=$PWD/target/tools/bin/cargo-semver-checks
[ "$("$tool" semver-checks --version 2>/dev/null)" = "cargo-semver-checks $version" ] ||
  CARGO_TARGET_DIR=target/tools/build cargo install -q --locked --debug --root target/tools --version $version cargo-semver-checks
"$tool" semver-checks -p gte-core --baseline-rev "$baseline" --only-explicit-features --features hub,bundled
