# Sourced by the scripts that build for aarch64 on machines with another architecture. It sets the
# environment for cargo, and defines `emulated`, `arm64_packages`, `tools` and `work`. The compiler,
# the linker and qemu come from Debian's packages, unpacked in target/check-arm; nothing is
# installed. It needs cargo, apt-get and dpkg, and root or the right to use apt-get. The current
# directory is the repository's root.
work=$PWD/target/check-arm
tools=$work/tc
# Debian's rustc matches Debian's std for arm64; rustup's does not. The version is part of the
# package's name.
rust=1.96 llvm=22 gcc=12

# Downloads packages for arm64 to a folder, from this machine's own mirrors, with separate package
# lists, so that those of the system do not change. `download` fetches these packages alone,
# `install` also what they depend on, without installing anything.
arm64_packages() {
  local how=$1 to=$2 apt=$work/apt
  shift 2
  mkdir -p "$to" "$apt/lists/partial" "$apt/cache/archives/partial"
  : >"$apt/status"
  local options=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists="$apt/lists"
    -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root -o Debug::NoLocking=1)
  apt-get "${options[@]}" -q update
  case $how in
    download) (cd "$to" && apt-get "${options[@]}" -q download "$@") ;;
    install)
      apt-get "${options[@]}" -q -y --download-only --no-install-recommends install "$@"
      mv "$apt"/cache/archives/*.deb "$to"
      ;;
  esac
  rm -rf "$apt"
}

if [ ! -e "$work/ready" ]; then
  rm -rf "$tools" "$work/packages"
  mkdir -p "$tools" "$work/bin" "$work/packages"
  apt-get -q update
  (cd "$work/packages" && apt-get -q -o APT::Sandbox::User=root download \
    rustc-web libstd-rust-web-$rust libstd-rust-web-dev libllvm$llvm \
    gcc-$gcc-aarch64-linux-gnu gcc-aarch64-linux-gnu cpp-$gcc-aarch64-linux-gnu binutils-aarch64-linux-gnu \
    libc6-arm64-cross libc6-dev-arm64-cross linux-libc-dev-arm64-cross libgcc-$gcc-dev-arm64-cross \
    libgcc-s1-arm64-cross qemu-user-static)
  arm64_packages download "$work/packages" libstd-rust-web-dev
  for package in "$work"/packages/*.deb; do
    case $package in
      *qemu-user-static*) dpkg --fsys-tarfile "$package" | tar -x -C "$tools" ./usr/bin/qemu-aarch64-static ;;
      *) dpkg -x "$package" "$tools" ;;
    esac
  done
  # A linker script that contains the path where the package would be installed.
  sed -i 's#/usr/aarch64-linux-gnu/lib/##g' "$tools/usr/aarch64-linux-gnu/lib/libc.so"
  for program in rustc=rustc gcc=aarch64-linux-gnu-gcc ar=aarch64-linux-gnu-ar strip=aarch64-linux-gnu-strip; do
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$tools/usr/lib/x86_64-linux-gnu" "$tools/usr/bin/${program#*=}" \
      >"$work/bin/${program%%=*}"
    chmod +x "$work/bin/${program%%=*}"
  done
  "$work/bin/rustc" --version | grep -qF "rustc $rust." || { echo "rustc-web is no longer $rust: change it here" >&2; exit 1; }
  rm -rf "$work/packages"
  touch "$work/ready"
fi

target=aarch64-unknown-linux-gnu
export RUSTC=$work/bin/rustc CARGO_BUILD_TARGET=$target CARGO_TARGET_DIR=$work/build CARGO_PROFILE_RELEASE_DEBUG=false
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$work/bin/gcc CC_aarch64_unknown_linux_gnu=$work/bin/gcc
export AR_aarch64_unknown_linux_gnu=$work/bin/ar
# The second implementation, with which tests compare, is most of their build, and does not depend
# on the kernels.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="--cfg gte_without_candle"

qemu=$tools/usr/bin/qemu-aarch64-static libc=$tools/usr/aarch64-linux-gnu
# emulated CPU PROGRAM [ARGUMENT]...
emulated() { "$qemu" -cpu "$1" -L "$libc" "${@:2}"; }
