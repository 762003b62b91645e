#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under ten minutes without a network: build, tests,
# compute-sanitizer, benchmarks, demo.
#
#   OUT=gpu-results bench/gpu_suite.sh            # all of it
#   bench/gpu_suite.sh --only build,benches       # some groups; benches, tests and demo need build
#   bench/gpu_suite.sh --dry-run                  # on a machine without a GPU: runs what runs there
#                                                 # and prints the commands of the rest
#
# OUT      results: summary.txt and suite.log grow as the steps end, and one JSON per benchmark with
#          the device in its name grows with every case, ready for bench/results
# PYTHON   an interpreter with torch, pytest, scikit-build-core and pybind11 (default python3)
# WHEELS   a folder of wheels for what it lacks; installed as they are, into a folder of this run
# CUDAARCHS, HAST_BENCH_COMMIT (where the tree has no .git)
set -u
cd "$(dirname "$0")/.." || exit 1

dry=
only=build,tests,sanitizer,benches,demo
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=1 ;;
    --only) only=${2:?--only needs a list} && shift ;;
    *) echo "usage: $0 [--dry-run] [--only build,tests,sanitizer,benches,demo]" >&2 && exit 2 ;;
  esac
  shift
done

OUT=${OUT:-gpu-results}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$OUT/suite.log
: >"$log" && : >"$OUT/summary.txt"
failed=0
export PYTHONUNBUFFERED=1 PATH="$PATH:/usr/local/cuda/bin"

wants() { [[ ",$only," == *",$1,"* ]]; }

say() { echo "$*" | tee -a "$OUT/summary.txt"; }

step() { # name, seconds, command...
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  [ -n "$dry" ] && limit=$((limit * 6 + 240)) # on few cores, compilers take their time
  echo "===== $name: $*" >>"$log"
  timeout --kill-after=5 "$limit" "$@" >>"$log" 2>&1
  status=$?
  [ $status -eq 0 ] || failed=1
  say "$name: exit $status after $((SECONDS - start)) s of at most $limit"
  return $status
}

gpu_step() { # a step that needs a GPU
  if [ -n "$dry" ]; then
    local name=$1 limit=$2
    shift 2
    say "$name: would run at most $limit s: $*"
  else
    step "$@"
  fi
}

# An environment of this run over the packages of $PYTHON. Their .pth files are not read, so an
# editable install there does not hide the package that is built here.
"${PYTHON:-python3}" -m venv --without-pip "$work/venv" || exit 1
packages=$(echo "$work"/venv/lib/python3*/site-packages)
"${PYTHON:-python3}" -c 'import sys; print(*[p for p in sys.path if p.endswith("-packages")], sep="\n")' \
  >"$packages/outer.pth"
export PATH="$work/venv/bin:$PATH"
# The folder of a script comes first on the path, that of `python -m pytest` is the source tree,
# whose package has no compiled core.
printf 'import sys\n\nimport pytest\n\nsys.exit(pytest.main())\n' >"$work/run_tests.py"
# One process on the one GPU, and no need for pytest-xdist.
tests=(python "$work/run_tests.py" -o "addopts=-ra --strict-markers -m 'not slow'"
  -q -p no:cacheprovider)

nvidia-smi >>"$log" 2>&1 || say "no GPU found"
if [ -n "${WHEELS:-}" ]; then
  step wheels 15 python -m pip install --no-index --no-deps "$WHEELS"/*.whl || exit 1
fi

# Limits: 15 + 100 + 10 + 90 + 130 + 210 + 5 + 35 = 595 s.
if wants build; then
  step build 100 env HAST_CUDA=ON CUDAARCHS="${CUDAARCHS:-90}" \
    python -m pip install --no-index --no-build-isolation --no-deps . || exit 1
  step info 10 python -c 'import hast_cuda; print(hast_cuda.__file__, hast_cuda.build_info())' || exit 1
fi

ops=(python_tests/test_fake_quantize.py python_tests/test_fake_quantize_weights.py
  python_tests/test_quantize_activation.py python_tests/test_batch_norm_match.py
  python_tests/test_batch_norm_activation.py
  python_tests/test_channel_attention.py python_tests/test_distillation_loss.py
  python_tests/test_hard_sample_loss.py python_tests/test_plateau.py
  python_tests/test_soft_round_weights.py)
if wants tests; then
  # Streams, devices and graphs are among them: test_gpu_*.py.
  gpu_step tests 90 "${tests[@]}" -k "(cuda or gpu) and not emulated" python_tests
  if [ -n "$dry" ]; then
    step tests-cpu 100 "${tests[@]}" -k "cpu and (vector or twice or opcheck or by_hand)" "${ops[@]}"
    step tests-emulated 100 "${tests[@]}" -k "emulated and (twice or by_hand)" "${ops[@]}"
  fi
fi

if wants sanitizer; then
  # One aligned and one ragged shape per op are enough here; the plain run above covers the rest.
  some="cuda and (vector or twice or more_weights or long_tensors or many or opcheck)"
  for tool in memcheck racecheck synccheck initcheck; do
    limit=30
    [ $tool = memcheck ] && limit=40
    # Without torch's cache of memory every tensor is an allocation, whose bounds the tools know.
    gpu_step "sanitizer-$tool" $limit env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool "$tool" --error-exitcode 9 "${tests[@]}" -k "$some" "${ops[@]}"
  done
fi

if wants benches; then
  for entry in fake_quantize:30 fake_quantize_weights:20 quantize_activation:20 batch_norm_match:30 \
    channel_attention:20 match_loss:20 soft_round_weights:10 losses:10; do
    op=${entry%:*} limit=${entry#*:}
    gpu_step "bench-$op" "$limit" python "bench/bench_$op.py" --device cuda --out "$OUT" \
      --rounds 20 --seconds 0.5
    if [ -n "$dry" ]; then
      case $op in
        match_loss) case=resnet20 ;;
        soft_round_weights) case=MobileNetV2 ;;
        losses) case=256x10 ;;
        *) case=7x33x13x5 ;;
      esac
      step "bench-$op-cpu" "$limit" python "bench/bench_$op.py" --device cpu --out "$OUT" \
        --rounds 2 --seconds 0.1 --only "$case"
    fi
  done
  # Without torch.compile, which takes minutes for whole iterations: run the script alone for it.
  gpu_step bench-step 40 python bench/bench_step.py --device cuda --out "$OUT" \
    --rounds 20 --seconds 4 --no-compile
  if [ -n "$dry" ]; then
    step bench-step-cpu 60 python bench/bench_step.py --device cpu --out "$OUT" \
      --rounds 1 --seconds 0.1 --no-compile --batch 2 --only synthesis
  fi
  gpu_step bench-memory 15 python bench/bench_memory.py --device cuda --out "$OUT"
  if [ -n "$dry" ]; then
    step bench-memory-cpu 20 python bench/bench_memory.py --device cpu --out "$OUT" --batch 1
  fi
  page=$work/page.md
  printf '<!-- results: start -->\n<!-- results: end -->\n' >"$page"
  step render 5 python bench/render.py --results "$OUT" --page "$page"
fi

if wants demo; then
  gpu_step demo 35 hast-cuda demo --device cuda --out "$work/demo"
  # One thread: several that wait for one another take minutes on a machine that others use.
  [ -z "$dry" ] || step demo-cpu 35 env OMP_NUM_THREADS=1 hast-cuda demo --device cpu --out "$work/demo"
  if [ -f "$work/demo/result.json" ]; then cp "$work/demo/result.json" "$OUT/demo-result.txt"; fi
fi

say "$([ $failed -eq 0 ] && echo 'all steps passed' || echo 'FAILED, see suite.log') after $SECONDS s"
exit $failed
