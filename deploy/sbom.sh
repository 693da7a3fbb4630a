#!/usr/bin/env bash
# Writes a CycloneDX SBOM of gte-server for Linux, without dependencies that only build or test it.
#     deploy/sbom.sh OUT.cdx.json [TARGET=that of this machine]
set -euo pipefail
out=$(realpath -m "${1:?OUT.cdx.json}") target=${2:-$(uname -m)-unknown-linux-gnu}
cd "$(dirname "$0")/.."
# Compiled without optimization, because it only works for one second.
tool=target/tools/bin/cargo-cyclonedx
[ -x $tool ] || CARGO_TARGET_DIR=target/tools cargo install -q --debug --locked --root target/tools cargo-cyclonedx@0.5.9
# The tool writes a file beside each Cargo.toml of the workspace.
name=sbom-of-the-moment
trap 'rm -f -- */$name.json */*/$name.json' EXIT
$tool cyclonedx -q --manifest-path gte-server/Cargo.toml --format json --spec-version 1.5 --target "$target" --no-build-deps \
  --override-filename $name
mkdir -p "$(dirname "$out")"
# Removes the path of this checkout.
sed "s#path+file://$PWD/#path+file:///#g" gte-server/$name.json > "$out"
python3 - "$out" <<'EOF'
import json, sys
document = json.load(open(sys.argv[1], encoding="utf8"))
names = {component["name"] for component in document["components"]}
missing = {"gte-core", "axum", "tokenizers", "rustls"} - names
assert not missing and not {"proptest", "pyo3"} & names, f"not gte-server's SBOM: {missing or names}"
print(f"SBOM: {len(names)} components, CycloneDX {document['specVersion']}")
EOF
