#!/usr/bin/env bash
# Collects what bench/gpu_suite.sh needs and a usual CUDA image lacks, for a machine without a network.
#
#   bench/gpu_wheels.sh FOLDER     # then WHEELS=FOLDER bench/gpu_suite.sh there
#   bench/gpu_wheels.sh --list     # their names
set -eu
wheels=(pytorchcv tyro docstring_parser typeguard)
case ${1:?"usage: $0 FOLDER | --list"} in
  --list) echo "${wheels[@]}" ;;
  *) "${PYTHON:-python3}" -m pip download --only-binary :all: --no-deps --dest "$1" "${wheels[@]}" ;;
esac
