#!/usr/bin/env bash
# How long the package takes to compile and to import.
#
#   bench/build_times.sh cpu                          # the CPU core and the engine, two files at a time; the import
#   bench/build_times.sh [ARCHITECTURE [FILE...]]     # CUDA kernels, one file at a time: default 90, all of csrc/*.cu
#
# CUDA: for one architecture (as where that GPU is in the machine, HAST_CUDA_ARCH=native), and for all, as a release
# has them. The import is that of whichever hast_cuda Python finds, with all its public names, beyond torch's.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
TIMEFORMAT="%R s, %U s of a core"

# configured NAME FLAGS...: a build folder
configured() {
  local name=$1
  shift
  cmake -S . -B "$work/$name" -G Ninja -Dpybind11_DIR="$(python3 -m pybind11 --cmakedir)" "$@" >"$work/log" 2>&1 ||
    { cat "$work/log" && exit 1; }
}

# built NAME PARALLEL TARGETS...: seconds on one line
built() {
  local name=$1 parallel=$2
  shift 2
  echo -n "$name: "
  time cmake --build "$work/$name" --target "$@" --parallel "$parallel" >"$work/log" 2>&1 || { cat "$work/log" && exit 1; }
}

if [ "${1:-}" = cpu ]; then
  configured cpu -DHAST_CUDA=OFF
  built cpu 2 _core _engine
  python3 - <<'PYTHON'
import time

import torch

start = time.process_time()
import hast_cuda

for name in hast_cuda.__all__:
    getattr(hast_cuda, name)
print(f"import: {time.process_time() - start:.2f} s of a core")
PYTHON
  exit 0
fi

one=${1:-90}
targets=(hast_cuda_kernels)
if [ $# -gt 1 ]; then
  shift
  targets=("${@/#/CMakeFiles/hast_cuda_kernels.dir/csrc/}") && targets=("${targets[@]/%/.o}")
fi
for architectures in "$one" all-major; do
  configured "$architectures" -DHAST_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$architectures"
  built "$architectures" 1 "${targets[@]}"
done
