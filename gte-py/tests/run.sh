#!/usr/bin/env bash
# Builds the wheel and tests it in an environment of its own, against the real packages that it fits
# into. DISTRIBUTED=1 adds the examples for Ray and Spark, which need half a gigabyte of packages
# and Java. REFERENCE=1 adds a comparison with sentence-transformers itself, which needs a few
# gigabytes. Arguments are passed to pytest.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
venv=target/venv-py
[ -x $venv/bin/python ] || python3 -m venv $venv
$venv/bin/pip install -q maturin==1.16.0 -r "$here/requirements.txt"
$venv/bin/pip install -q --no-deps -r "$here/requirements-sources.txt"
left_out=()
if [ -n "${DISTRIBUTED:-}" ]; then
  $venv/bin/pip install -q -r "$here/requirements-distributed.txt"
  if ! command -v java >/dev/null; then
    [ "$(id -u)" = 0 ] || { echo "install a Java runtime first, for Spark" >&2; exit 1; }
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends openjdk-17-jre-headless >/dev/null
  fi
else
  left_out+=(--ignore "$here/test_distributed.py")
  echo "not run: the examples for Ray and Spark; make python runs them"
fi
if [ -n "${REFERENCE:-}" ]; then
  $venv/bin/pip install -q -r "$here/requirements-reference.txt"
else
  left_out+=(--ignore-glob "$here/test_reference*.py")
  echo "not run: the comparison with sentence-transformers; make python runs it"
fi
rm -rf target/wheels
$venv/bin/maturin build -q --release --manifest-path gte-py/Cargo.toml --out target/wheels
$venv/bin/pip install -q --force-reinstall --no-deps target/wheels/*.whl
$venv/bin/python -m pytest -q -p no:cacheprovider "$here" "${left_out[@]}" "$@"
