#!/usr/bin/env bash
# Builds and runs the image where no registry can be reached: buildah builds it on a base made by
# debootstrap, under the name that the Dockerfile uses.
#     deploy/image.sh [TAG=gte-server:0.1.0]
# The binary is built from this checkout with the features of gte-server, and the image by the last
# stages of the Dockerfile. With FROM_SOURCE=1 the first stage of the Dockerfile compiles the binary
# too, with this machine's toolchain instead of the one in Rust's image (about ten minutes on two
# cores the first time). Then the image is run as on Kubernetes (not as root, read-only, without
# capabilities), and gets a request. Needs root, and Debian's buildah, debootstrap and runc, which
# it installs.
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:-gte-server:0.1.0}
# The kernels for GPUs, as they are in the binary.
kernels=gte-core/src/backend/cuda
ptx=$(sed -n 's/^ *module!("\([a-z_0-9]*\)".*/\1/p' $kernels/nvidia/ptx.rs | while read -r name; do cat $kernels/kernels/ptx/"$name".sm_*.ptx; done | wc -c)
[ "$ptx" -gt 100000 ] || { echo "no PTX is found where it was" >&2; exit 1; }
limit=$((60000000 + ptx)) # bytes, of the binary with the 24 MB of the real base, and of the PTX
[ "$(id -u)" = 0 ] || { echo "deploy/image.sh needs root" >&2; exit 1; }
missing=(); for program in buildah debootstrap runc; do command -v $program >/dev/null || missing+=($program); done
if [ ${#missing[@]} -gt 0 ]; then
  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
fi

# Makes an image of Debian with these packages, under the name of an image that the Dockerfile uses.
debian() { # NAME PACKAGES [OPTIONS of buildah config]
  local name=$1 packages=$2 root container; shift 2
  buildah inspect --type image "$name" >/dev/null 2>&1 && return
  root=$(mktemp -d)
  debootstrap --variant=minbase --include="$packages" bookworm "$root" >/dev/null
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}
  container=$(buildah from scratch)
  buildah add -q "$container" "$root" / >/dev/null
  buildah config "$@" "$container"
  buildah commit -q "$container" "$name" >/dev/null
  buildah rm "$container" >/dev/null; rm -rf "$root"
}

image() { sed -n "s/^ARG $1=//p" deploy/Dockerfile; }

debian "$(image RUNTIME_IMAGE)" ca-certificates --user 65532
build=(--isolation chroot --pull-never --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || true)" -f deploy/Dockerfile -t "$tag")
if [ "${FROM_SOURCE:-}" = 1 ]; then
  # The packages that Rust's own image contains besides the toolchain.
  debian "docker.io/library/$(image BUILD_IMAGE)" ca-certificates,gcc,libc6-dev --env CARGO_HOME=/usr/local/cargo \
    --env PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  # BINARY is given although it is the default, because otherwise buildah skips the stage as unused.
  # This machine's certificate authorities are mounted too, in case it reaches crates.io through a
  # proxy.
  buildah bud "${build[@]}" --build-arg BINARY=build --volume "$(rustc --print sysroot):/opt/rust:ro" --volume /etc/ssl/certs:/etc/ssl/certs:ro .
else
  # Built as in the Dockerfile: a build of the whole workspace would include candle, which only
  # tests need.
  cargo build --release -q -p gte-server
  mkdir -p target/image && strip -o target/image/gte-server target/release/gte-server
  deploy/sbom.sh target/image/gte-server.cdx.json
  buildah bud -q "${build[@]}" --build-arg BINARY=prebuilt . >/dev/null
fi
echo "built $tag"

# Run as on Kubernetes.
work=$(mktemp -d)
container=$(buildah from --pull-never "$tag")
# Errors are ignored: some of this may already be gone.
clean() { set +e; runc kill gte-image KILL 2>/dev/null; sleep 0.5; runc delete -f gte-image 2>/dev/null; buildah umount "$container" >/dev/null; buildah rm "$container" >/dev/null; rm -rf "$work"; }
trap clean EXIT
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mount=$(buildah mount "$container")
size=$(($(stat -c %s "$mount/usr/local/bin/gte-server") + 24000000))
echo "binary with the real base: $((size / 1000)) kB, of which PTX for GPUs $((ptx / 1000)) kB"
[ $size -le $limit ] || { echo "more than $((limit / 1000)) kB" >&2; exit 1; }
[ -s "$mount/usr/share/sbom/gte-server.cdx.json" ] || { echo "no SBOM in the image" >&2; exit 1; }
(cd "$work" && runc spec && python3 - "$mount" "$port" <<'EOF'
import json, sys
spec = json.load(open("config.json"))
spec["root"] = {"path": sys.argv[1], "readonly": True}
process = spec["process"]
process.update(terminal=False, args=["/usr/local/bin/gte-server"], user={"uid": 65532, "gid": 65532}, noNewPrivileges=True, cwd="/",
               env=["HF_HOME=/models", "GTE_LOG_FORMAT=json", f"GTE_PORT={sys.argv[2]}"])
process["capabilities"] = {kind: [] for kind in process["capabilities"]}
spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] not in ("network", "cgroup")]
spec["linux"].pop("resources", None)
json.dump(spec, open("config.json", "w"))
EOF
)
(cd "$work" && runc run gte-image >"$work/log" 2>&1 </dev/null) &
for _ in $(seq 100); do curl -fs "http://127.0.0.1:$port/readyz" >/dev/null && break; sleep 0.1; done
curl -fs "http://127.0.0.1:$port/v1/similarity" -H 'content-type: application/json' -d '{"source_text": "怎么退货？", "candidate_texts": ["如何申请退货", "今天天气真好"]}' \
  || { cat "$work/log" >&2; exit 1; }
echo
runc kill gte-image TERM
for _ in $(seq 150); do runc state gte-image 2>/dev/null | grep -q '"running"' || break; sleep 0.1; done
grep -q draining "$work/log" || { cat "$work/log" >&2; echo "no drain on SIGTERM" >&2; exit 1; }
echo "answered, and drained on SIGTERM"
