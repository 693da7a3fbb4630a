#!/usr/bin/env bash
# Builds the wheel and tests it in an environment of its own, against the real packages that it fits into. Arguments go to pytest.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
venv=target/venv-py
if ! command -v java >/dev/null; then # for Spark
  [ "$(id -u)" = 0 ] || { echo "install a Java runtime first, for Spark" >&2; exit 1; }
  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends openjdk-17-jre-headless >/dev/null
fi
[ -x $venv/bin/python ] || python3 -m venv $venv
$venv/bin/pip install -q maturin==1.16.0 -r "$here/requirements.txt"
rm -rf target/wheels
$venv/bin/maturin build -q --release --manifest-path gte-py/Cargo.toml --out target/wheels
$venv/bin/pip install -q --force-reinstall --no-deps target/wheels/*.whl
$venv/bin/python -m pytest -q -p no:cacheprovider "$here" "$@"
