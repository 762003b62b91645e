#!/usr/bin/env bash
# How long the CUDA kernels take to compile, one file at a time: for one architecture (as where that
# GPU is in the machine, HAST_CUDA_ARCH=native), and for all, as a release has them.
#
#   bench/build_times.sh [ARCHITECTURE [FILE...]]     # default 90, and all of csrc/*.cu
set -euo pipefail
cd "$(dirname "$0")/.."
one=${1:-90}
targets=(hast_cuda_kernels)
if [ $# -gt 1 ]; then
  shift
  targets=("${@/#/CMakeFiles/hast_cuda_kernels.dir/csrc/}") && targets=("${targets[@]/%/.o}")
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
TIMEFORMAT="%R s, %U s of a core"
for architectures in "$one" all-major; do
  cmake -S . -B "$work/$architectures" -G Ninja -DHAST_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$architectures" \
    -Dpybind11_DIR="$(python3 -m pybind11 --cmakedir)" >"$work/log" 2>&1 || { cat "$work/log" && exit 1; }
  echo -n "$architectures: "
  time cmake --build "$work/$architectures" --target "${targets[@]}" --parallel 1 >"$work/log" 2>&1 ||
    { cat "$work/log" && exit 1; }
done
