#!/usr/bin/env bash
# Builds and runs the image where no registry can be reached: buildah builds it on a base made by
# debootstrap, under the name that the Dockerfile uses.
#     [ARCH=arm64] deploy/image.sh [TAG=gte-server:0.1.0]
# ARCH is amd64 or arm64. Default: that of this machine. For arm64 on another machine, the binary is
# cross-compiled with the tools of gte-core/tests/aarch64.sh, the base is made of unpacked packages,
# and the image runs under qemu, which is only mounted into its root.
#
# The binary is built from this checkout with the features of gte-server, and the image by the last
# stages of the Dockerfile. With FROM_SOURCE=1 the first stage of the Dockerfile compiles the binary
# too, with this machine's toolchain instead of the one in Rust's image (about ten minutes on two
# cores the first time). Then the image is run as on Kubernetes (not as root, read-only, without
# capabilities), and gets a request. Needs root, and Debian's buildah, debootstrap and runc, which
# it installs.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$(dpkg --print-architecture) arch=${ARCH:-$(dpkg --print-architecture)}
case $arch in
  "$here") emulated= tag=${1:-gte-server:0.1.0} ;;
  arm64) emulated=1 tag=${1:-gte-server:0.1.0-arm64} ;;
  *) echo "ARCH=$arch: it is amd64 or arm64, and only arm64 is emulated" >&2; exit 1 ;;
esac
[ -z "$emulated" ] || [ -z "${FROM_SOURCE:-}" ] || { echo "FROM_SOURCE=1 compiles in an image of this machine's architecture, not for $arch" >&2; exit 1; }
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

# The same for arm64, of packages that are only unpacked, as in the real base: nothing of them runs.
arm64_base() { # NAME
  local name=$1 root container
  buildah inspect --type image "$name" >/dev/null 2>&1 && return
  root=$(mktemp -d)
  (. gte-core/tests/aarch64.sh && arm64_packages download "$root/debs" base-files ca-certificates libc6 libgcc-s1 libgomp1 libssl3 libstdc++6 netbase tzdata) >/dev/null
  mkdir "$root/root"
  for package in "$root"/debs/*.deb; do dpkg -x "$package" "$root/root"; done
  rm -rf "$root"/root/usr/share/{doc,man,locale}
  mkdir -p "$root/root/etc/ssl/certs"
  cat "$root"/root/usr/share/ca-certificates/mozilla/*.crt >"$root/root/etc/ssl/certs/ca-certificates.crt"
  printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >"$root/root/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/root/etc/group"
  chmod 755 "$root/root"
  container=$(buildah from --arch arm64 scratch)
  buildah add -q "$container" "$root/root" / >/dev/null
  buildah config --arch arm64 --user 65532 "$container"
  buildah commit -q "$container" "$name" >/dev/null
  buildah rm "$container" >/dev/null; rm -rf "$root"
}

image() { sed -n "s/^ARG $1=//p" deploy/Dockerfile; }

base=$(image RUNTIME_IMAGE)
if [ "$emulated" ]; then
  base+=-$arch # gcr.io has it under this name
  arm64_base "$base"
else
  debian "$base" ca-certificates --user 65532
fi
build=(--arch "$arch" --build-arg RUNTIME_IMAGE="$base" --isolation chroot --pull-never --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || true)" -f deploy/Dockerfile -t "$tag")
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
  mkdir -p target/image
  if [ "$emulated" ]; then
    cargo build --release -q --workspace --bin gte-server # to compare with
    (. gte-core/tests/aarch64.sh && cargo build --release -q -p gte-server &&
      "$work/bin/strip" -o target/image/gte-server "$CARGO_TARGET_DIR/$target/release/gte-server")
  else
    cargo build --release -q -p gte-server
    strip -o target/image/gte-server target/release/gte-server
  fi
  deploy/sbom.sh target/image/gte-server.cdx.json "$([ "$arch" = arm64 ] && echo aarch64 || echo x86_64)-unknown-linux-gnu"
  buildah bud -q "${build[@]}" --build-arg BINARY=prebuilt . >/dev/null
fi
echo "built $tag"

# Run as on Kubernetes: with the entrypoint, the environment and the user that the image names, not
# as root, read-only and without capabilities.
work=$(mktemp -d)
container=$(buildah from --pull-never --arch "$arch" "$tag")
native=
# Errors are ignored: some of this may already be gone.
clean() {
  set +e
  [ -z "$native" ] || kill "$native" 2>/dev/null
  runc kill gte-image KILL 2>/dev/null; sleep 0.5; runc delete -f gte-image 2>/dev/null
  buildah umount "$container" >/dev/null; buildah rm "$container" >/dev/null; rm -rf "$work"
}
trap clean EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port)
mount=$(buildah mount "$container")
size=$(($(stat -c %s "$mount/usr/local/bin/gte-server") + 24000000))
echo "binary with the real base: $((size / 1000)) kB, of which PTX for GPUs $((ptx / 1000)) kB"
[ $size -le $limit ] || { echo "more than $((limit / 1000)) kB" >&2; exit 1; }
[ -z "$emulated" ] || echo "all files of this image: $(($(du -sb "$mount" | cut -f 1) / 1000)) kB"
[ -s "$mount/usr/share/sbom/gte-server.cdx.json" ] || { echo "no SBOM in the image" >&2; exit 1; }
# e_machine of an ELF file: 62 is x86-64, 183 is AArch64.
machine=$(od -An -t u2 -j 18 -N 2 "$mount/usr/local/bin/gte-server")
[ "$machine" -eq "$([ "$arch" = arm64 ] && echo 183 || echo 62)" ] || { echo "the binary is for another architecture: $machine" >&2; exit 1; }
buildah inspect --type image "$tag" >"$work/image.json"
qemu=
[ -z "$emulated" ] || qemu=$(. gte-core/tests/aarch64.sh >/dev/null && echo "$qemu")
(cd "$work" && runc spec && python3 - "$mount" "$port" "$arch" "$qemu" <<'EOF'
import json, sys
root, port, arch, qemu = sys.argv[1:]
image = json.load(open("image.json"))["OCIv1"]
config, labels = image["config"], image["config"]["Labels"]
assert image["architecture"] == arch, image["architecture"]
assert config["User"] == "65532:65532" and config["Entrypoint"] == ["/usr/local/bin/gte-server"], config
assert labels["org.opencontainers.image.title"] == "gte-server" and labels["org.opencontainers.image.version"], labels
spec = json.load(open("config.json"))
spec["root"] = {"path": root, "readonly": True}
uid, gid = map(int, config["User"].split(":"))
process = spec["process"]
process.update(terminal=False, args=config["Entrypoint"], user={"uid": uid, "gid": gid}, noNewPrivileges=True, cwd="/",
               env=config["Env"] + [f"GTE_PORT={port}"])
if qemu:
    spec["mounts"].append({"destination": "/qemu", "source": qemu, "type": "bind", "options": ["bind", "ro"]})
    process["args"] = ["/qemu", "-cpu", "max,sve=off", *process["args"]]
process["capabilities"] = {kind: [] for kind in process["capabilities"]}
spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] not in ("network", "cgroup")]
spec["linux"].pop("resources", None)
json.dump(spec, open("config.json", "w"))
EOF
)
(cd "$work" && exec runc run gte-image >"$work/log" 2>&1 </dev/null) &
running=$!
fail() { cat "$work/log" >&2; echo "$@" >&2; exit 1; }
ready() { for _ in $(seq 3000); do curl -fs "http://127.0.0.1:$1/readyz" >/dev/null && return; sleep 0.1; done; fail "not ready after five minutes"; }
ready "$port"
curl -fs "http://127.0.0.1:$port/v1/similarity" -H 'content-type: application/json' -d '{"source_text": "怎么退货？", "candidate_texts": ["如何申请退货", "今天天气真好"]}' \
  || fail "no answer"
echo
if [ "$emulated" ]; then
  # Its vectors are those of the same server on this machine's own architecture.
  own=$(free_port)
  GTE_PORT=$own target/release/gte-server >"$work/native.log" 2>&1 & native=$!
  ready "$own"
  for at in "$port" "$own"; do
    curl -fs "http://127.0.0.1:$at/v1/embeddings" -H 'content-type: application/json' \
      -d '{"model": "bundled", "input": ["怎么退货？", "How do I return a broken kettle?"]}' >"$work/$at.json" || fail "no vectors"
  done
  python3 - "$work/$port.json" "$work/$own.json" <<'EOF'
import json, sys
ours, theirs = ([row["embedding"] for row in json.load(open(path))["data"]] for path in sys.argv[1:])
assert len(ours) == len(theirs) == 2
# Both vectors are of unit length.
cosines = [sum(x * y for x, y in zip(a, b, strict=True)) for a, b in zip(ours, theirs, strict=True)]
print("cosine with the vectors of this machine:", *(f"{cosine:.6f}" for cosine in cosines))
assert min(cosines) > 0.999, cosines
EOF
fi
runc kill gte-image TERM
for _ in $(seq 300); do kill -0 $running 2>/dev/null || break; sleep 0.1; done
! kill -0 $running 2>/dev/null || fail "still running 30 s after SIGTERM"
status=0; wait $running || status=$?
[ $status = 0 ] || fail "exit code $status after SIGTERM"
grep -q draining "$work/log" || fail "no drain on SIGTERM"
echo "answered, and drained on SIGTERM"
