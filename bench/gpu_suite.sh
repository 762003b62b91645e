#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under ten minutes: build, tests, compute-sanitizer,
# benchmarks. Each step writes its log under $OUT at once, so a run that is cut off keeps what it did.
#
#   OUT=results/gpu bench/gpu_suite.sh        # needs nvcc, torch, pytest, hypothesis, pytorchcv
set -u
cd "$(dirname "$0")/.."
root=$PWD
OUT=$(mkdir -p "${OUT:-bench/results/gpu}" && cd "${OUT:-bench/results/gpu}" && pwd)
PYTHON=${PYTHON:-python3}
: >"$OUT/summary.txt"

step() { # name, seconds, command...
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  timeout --kill-after=10 "$limit" "$@" >"$OUT/$name.log" 2>&1
  local status=$?
  echo "$name: exit $status after $((SECONDS - start)) s" | tee -a "$OUT/summary.txt"
  return $status
}

nvidia-smi >"$OUT/nvidia-smi.txt" 2>&1 || echo "no GPU: only the steps without one will pass" | tee -a "$OUT/summary.txt"

step build 240 env HAST_CUDA=ON CUDAARCHS="${CUDAARCHS:-90}" \
  "$PYTHON" -m pip install --no-build-isolation --no-deps --force-reinstall . || exit 1

# A folder without the source package, so that the installed one with its core is imported.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r python_tests bench pyproject.toml "$work/"
cd "$work" || exit 1

step info 60 hast-cuda info
step tests 200 "$PYTHON" -m pytest -q -x -p no:cacheprovider -k "not cpu and not emulated" python_tests
ops="python_tests/test_fake_quant.py python_tests/test_channel_range.py \
python_tests/test_batch_stats.py python_tests/test_channel_attention.py"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck initcheck; do
    # One aligned and one ragged shape per op are enough here; the plain run above covers the rest.
    # shellcheck disable=SC2086
    step "sanitizer-$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$PYTHON" -m pytest -q -p no:cacheprovider \
      -k "cuda and (vector or twice or more_weights or long_tensors or many or opcheck)" $ops
  done
else
  echo "compute-sanitizer: not installed, skipped" | tee -a "$OUT/summary.txt"
fi
for op in fake_quant channel_range batch_stats channel_attention; do
  step "bench-$op" 60 "$PYTHON" "bench/bench_$op.py" --device cuda --out "$OUT"
done
step demo 120 hast-cuda demo --device cuda --out "$work/demo"
cp "$work/demo/result.json" "$OUT/demo.json" 2>/dev/null
cd "$root" && cat "$OUT/summary.txt"
