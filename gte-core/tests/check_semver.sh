#!/usr/bin/env bash
# Whether gte-core's public API breaks what the last release promised, by cargo-semver-checks:
#     gte-core/tests/check_semver.sh [TAG OR COMMIT = the last tag v* before this commit]
# The tool has no binary on a package registry: it is compiled once, for some minutes, below
# target/tools. That, and documenting two versions, is why this is a target of its own and no part
# of `make lint`; the release workflow runs it.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=0.49.0 # the newest for rustc 1.91 and later
baseline=${1:-$(git describe --tags --abbrev=0 --match 'v*' HEAD^ 2>/dev/null || true)}
if [ -z "$baseline" ]; then
  echo "not run: there is no release before this one (a tag v*); $0 COMMIT compares with a commit"
  exit 0
fi
tool=target/tools/bin/cargo-semver-checks
[ "$($tool semver-checks --version 2>/dev/null)" = "cargo-semver-checks $version" ] ||
  CARGO_TARGET_DIR=target/tools/build cargo install -q --locked --debug --root target/tools --version $version cargo-semver-checks
$tool semver-checks -p gte-core --baseline-rev "$baseline" --only-explicit-features --features hub,bundled,candle
