#!/usr/bin/env bash
# Compiles the kernels to PTX, which the driver compiles for the card at hand: ptx/NAME.sm_75.ptx
# and ptx/NAME.sm_80.ptx, and ptx/MANIFEST with the checksum of each source and the compiler's
# version. With --check, compares the result with the committed files instead. Both print the
# registers on three generations of cards; a spill is an error.
#
# The compiler comes from Python wheels; no CUDA installation is needed.
#
# nvcc 13.0 writes PTX 9.0, which drivers before 580 refuse. The kernels use nothing newer than PTX
# 7.0, so the files say 7.8, which drivers support since CUDA 11.8 (driver 520). The assembler
# checks here that the files are valid as 7.8.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${VENV:-$here/../../../../../target/venv-cuda}
release=13.0.88
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
fi
if ! ls "$venv"/lib/python3*/site-packages/nvidia/cu13/bin/nvcc >/dev/null 2>&1; then
  "$venv/bin/pip" install -q nvidia-cuda-nvcc==$release nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-crt==$release nvidia-nvvm==$release
fi
command -v g++ >/dev/null || { apt-get update -q; apt-get install -y -q g++; } # nvcc preprocesses with it
cuda=$(cd "$venv"/lib/python3*/site-packages/nvidia/cu13 && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$here"
for source in *.cu; do
  for arch in 75 80; do
    "$cuda/bin/nvcc" -ptx -std=c++17 -arch=compute_$arch -I "$cuda/include" -o "$work/raw.ptx" "$source"
    # Comments and indentation are a fifth of it. Names of shared memory have a number that depends
    # on the folder of the sources.
    sed -E -e 's#//.*##' -e 's/^[ \t]+//' -e 's/[ \t]+/ /g' -e 's/ +$//' -e '/^$/d' \
      -e 's/_INTERNAL_[0-9a-f]{8}_/_INTERNAL_00000000_/g' -e 's/^\.version .*/.version 7.8/' "$work/raw.ptx" >"$work/${source%.cu}.sm_$arch.ptx"
  done
done
rm "$work/raw.ptx"
{
  echo "nvcc $release"
  sha256sum ./*.cu ./*.cuh
} >"$work/MANIFEST"
if [ "${1:-}" = --check ]; then
  diff -rq "$work" ptx || { echo "ptx/ is not of these sources: run $0" >&2; exit 1; }
else
  mkdir -p ptx
  rm -f ptx/*
  cp "$work"/* ptx/
fi
echo "$(cat ptx/*.ptx | wc -c) bytes of PTX, $(cat ptx/*.ptx | gzip -9 | wc -c) compressed"
printf '%-24s %s\n' "registers" "sm_75 sm_80 sm_90"
for arch in 75 80 90; do
  for source in *.cu; do
    ptx=ptx/${source%.cu}.sm_$((arch < 80 ? 75 : 80)).ptx
    "$cuda/bin/ptxas" -v -arch=sm_$arch -o "$work/cubin" "$ptx" 2>&1 | awk -v arch=$arch '
      /Compiling entry function/ { split($0, part, "\047"); name = part[2] }
      /bytes spill/ { spills = $5 + $9 }
      /Used [0-9]+ registers/ { match($0, /Used [0-9]+/); print name, arch, substr($0, RSTART + 5, RLENGTH - 5), spills }'
  done
done >"$work/resources"
awk '{ of[$1, $2] = $3; names[$1]; if ($4 > 0) { print $1 " spills " $4 " bytes on sm_" $2; bad = 1 } }
  END { for (name in names) printf "%-24s %5s %5s %5s\n", name, of[name, 75], of[name, 80], of[name, 90] | "sort"
        close("sort"); print bad ? "some kernel spills" : "no kernel spills"; exit bad }' "$work/resources"
