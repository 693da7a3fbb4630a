#!/usr/bin/env bash
# Tests the application as its users start it: some hundred pages, both databases, a kill, a
# browser, and the same with Milvus. Installs what it needs: packages of Python under target/,
# Chromium and a Chinese font from Debian.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."
venv=target/venv-document-search
for package in chromium fonts-noto-cjk; do
  dpkg-query -W -f '${Status}' $package 2>/dev/null | grep -q "ok installed" && continue
  [ "$(id -u)" = 0 ] || { echo "install the Debian package $package first" >&2; exit 1; }
  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $package >/dev/null
done
[ -x $venv/bin/python ] || python3 -m venv $venv
$venv/bin/pip install -q -r "$here/requirements.txt"
# The wheel of gte-py/tests/run.sh, which `make test` runs before.
if ! compgen -G "target/wheels/gte*.whl" >/dev/null; then
  $venv/bin/pip install -q maturin==1.16.0
  $venv/bin/maturin build -q --release --manifest-path gte-py/Cargo.toml --out target/wheels
fi
$venv/bin/pip install -q --force-reinstall --no-deps target/wheels/gte*.whl
[ -x target/release/document-search ] || cargo build --release -q --workspace --bin document-search
mkdir -p target/screenshots
$venv/bin/python "$here/application.py" "$@"
