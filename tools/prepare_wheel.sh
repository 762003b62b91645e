#!/usr/bin/env bash
# Makes a manylinux container ready for wheels: for the CPU nothing, for CUDA the compiler and a
# version that tells the wheels apart.
#
#   tools/prepare_wheel.sh ""       # or 12.8, 13.0
set -euo pipefail
cuda=$1
if [ -z "$cuda" ]; then
  exit 0
fi
machine=$(uname -m)
if [ "$machine" = aarch64 ]; then
  machine=sbsa
fi
dnf install -y dnf-plugins-core
dnf config-manager --add-repo "https://developer.download.nvidia.com/compute/cuda/repos/rhel8/$machine/cuda-rhel8.repo"
dnf install -y "cuda-nvcc-${cuda/./-}" "cuda-cudart-devel-${cuda/./-}"
sed -i "s/^version = \"\(.*\)\"/version = \"\1+cu${cuda%.*}\"/" "$(dirname "$0")/../pyproject.toml"
