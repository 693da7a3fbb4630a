#!/usr/bin/env bash
# Installs what check.py needs if it is missing, and runs it. kubectl 1.22 or newer must be
# installed: Debian's own is too old for these kustomizations.
set -euo pipefail
cd "$(dirname "$0")/.."
missing=()
if ! command -v kubectl >/dev/null; then
  echo "NOT RUN: deploy/check.sh needs kubectl, 1.22 or newer (https://kubernetes.io/docs/tasks/tools/)" >&2
  exit 0
fi
command -v promtool >/dev/null || missing+=(prometheus)
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || { echo "install first: ${missing[*]}" >&2; exit 1; }
  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
fi
venv=target/venv-deploy
[ -x $venv/bin/python ] || python3 -m venv $venv
$venv/bin/pip install -q kubernetes-validate==1.37.0 PyYAML==6.0.3
$venv/bin/python deploy/check.py
