#!/usr/bin/env bash
# Everything that needs a GPU, in two calls of under ten minutes each, without a network.
#
#   OUT=gpu-results bench/gpu_suite.sh --call 1   # build, smoke, GPU tests, stress, times
#   OUT=gpu-results bench/gpu_suite.sh --call 2   # build, op tests, sanitizers, iterations, demo
#   bench/gpu_suite.sh --only build,smoke         # some groups; all but build need what it installs
#   bench/gpu_suite.sh --call 1 --dry-run         # without a GPU: every step on a made-up device
#
# OUT      results. summary.txt grows as steps end; steps/NAME.json says from its start how a step
#          stands, steps/NAME.log what it printed; checks/*.json and one JSON per benchmark with the device
#          in its name, ready for bench/results, grow with every case
# PYTHON   an interpreter with torch, pytest, scikit-build-core and pybind11 (default python3)
# WHEELS   a folder of wheels for what it lacks, from bench/gpu_wheels.sh
# LIMIT    seconds, also 0.5, that no step may exceed, once the package is there
# CUDAARCHS, HAST_BENCH_COMMIT (where the tree has no .git), HAST_EMULATED_MODULE (for --dry-run)
set -u
cd "$(dirname "$0")/.." || exit 1

usage="usage: $0 --call 1|2 | --only build,smoke,gpu,stress,kernels,benches,ops,sanitizer,step,memory,demo [--dry-run]"
dry='' only=''
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=1 ;;
    --call)
      case ${2:-} in
        1) only=build,smoke,gpu,stress,kernels,benches ;;
        2) only=build,ops,sanitizer,step,memory,demo ;;
        *) echo "$usage" >&2 && exit 2 ;;
      esac
      shift
      ;;
    --only) only=${2:?--only needs a list} && shift ;;
    *) echo "$usage" >&2 && exit 2 ;;
  esac
  shift
done
[ -n "$only" ] || { echo "$usage" >&2 && exit 2; }

OUT=${OUT:-gpu-results} PYTHON=${PYTHON:-python3}
mkdir -p "$OUT/steps" && OUT=$(cd "$OUT" && pwd) || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
export PYTHONUNBUFFERED=1 PATH="$PATH:/usr/local/cuda/bin"

wants() { [[ ",$only," == *",$1,"* ]]; }

say() { echo "$*" | tee -a "$OUT/summary.txt"; }

record() { # name, status, seconds, limit, command...
  "$PYTHON" -c '
import json, pathlib, sys
path, status, seconds, limit, *command = sys.argv[1:]
text = json.dumps({"status": status, "seconds": int(seconds), "limit": int(limit), "command": command})
half = pathlib.Path(path + ".part")
half.write_text(text + "\n")
half.replace(path)' "$OUT/steps/$1.json" "${@:2}"
}

step() { # name, seconds, command...
  local name=$1 limit=$2 most=$2 start=$SECONDS log=$OUT/steps/$1.log code status
  shift 2
  [ -z "$dry" ] || most=$((8 * most)) # on a CPU that is busy with other things
  if [ -n "${LIMIT:-}" ] && [ "${LIMIT%.*}" -lt "$most" ]; then most=$LIMIT; fi
  record "$name" running 0 "$limit" "$@"
  # An interrupt, which Python answers with what it has; started in the background it would ignore it.
  timeout --signal=INT --kill-after=5 "$most" env --default-signal=INT "$@" >"$log" 2>&1 </dev/null
  code=$?
  case $code in
    0) status=passed ;;
    124 | 137) status="cut off" ;;
    *) status="failed ($code)" ;;
  esac
  record "$name" "$status" $((SECONDS - start)) "$limit" "$@"
  say "$name: $status after $((SECONDS - start)) s of at most $most"
  [ $code -eq 0 ] && return
  failed=1
  tail -n 40 "$log" | sed 's/^/    /'
  return $code
}

: >"$OUT/summary.txt"
if [ -n "$dry" ]; then
  # The package that $PYTHON has, the kernels emulated on its CPU, and tools that only pass on.
  mkdir "$work/bin"
  printf '#!/bin/sh\necho "a made-up GPU"\n' >"$work/bin/nvidia-smi"
  printf '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift 2; done\nexec "$@"\n' >"$work/bin/compute-sanitizer"
  chmod +x "$work"/bin/*
  export PATH="$work/bin:$PATH" PYTHONPATH="$PWD/python_tests${PYTHONPATH:+:$PYTHONPATH}"
  if [ -z "${HAST_EMULATED_MODULE:-}" ]; then
    HAST_EMULATED_MODULE=$("$PYTHON" -c 'import pathlib, sys, emulated.build as b
print(b.compile_module(pathlib.Path(sys.argv[1])))' "$work") || exit 1
  fi
  export HAST_EMULATED_MODULE
  python=("$PYTHON" python_tests/gpu_rehearsal.py) pytest=(-p gpu_rehearsal) maps=(--small --calls 5)
  few=(--no-large --rounds 1 --seconds 0.1 --only 7x33x13x5) hast=("${python[@]}" hast_cuda/__main__.py)
else
  # An environment of this run over the packages of $PYTHON. Their .pth files are not read, so an
  # editable install there does not hide the package that is built here.
  "$PYTHON" -m venv --without-pip "$work/venv" || exit 1
  packages=$(echo "$work"/venv/lib/python3*/site-packages)
  "$PYTHON" -c 'import sys; print(*[p for p in sys.path if p.endswith("-packages")], sep="\n")' \
    >"$packages/outer.pth"
  export PATH="$work/venv/bin:$PATH"
  python=(python) pytest=() maps=() few=(--rounds 20 --seconds 0.5) hast=(hast-cuda)
  if [ -n "${WHEELS:-}" ]; then
    step wheels 15 python -m pip install --no-index --no-deps "$WHEELS"/*.whl || exit 1
  fi
  PYTHON=python
fi
# The folder of a script comes first on the path, that of `python -m pytest` is the source tree,
# whose package has no compiled core. One process on the one GPU, and no need for pytest-xdist.
printf 'import sys\n\nimport pytest\n\nsys.exit(pytest.main())\n' >"$work/run_tests.py"
tests=("$PYTHON" "$work/run_tests.py" -o "addopts=-rfE --tb=short --strict-markers -m 'not slow'"
  "${pytest[@]}" -v -p no:cacheprovider -W ignore::pluggy.PluggyTeardownRaisedWarning) # hypothesis, interrupted

LIMIT='' step device 10 nvidia-smi || exit 1
# Before anything that takes time: without one of these most steps would fail, one after the other.
needed=(torch torchvision numpy safetensors filelock tqdm pytest pybind11)
[ -n "$dry" ] || needed+=(scikit_build_core) # a dry run builds nothing
LIMIT='' step imports 20 "$PYTHON" -c '
import importlib.util, subprocess, sys
needed = sys.argv[1:]
brought = subprocess.run(["bench/gpu_wheels.sh", "--list"], capture_output=True, text=True).stdout.split()
missing = [name for name in needed + brought if importlib.util.find_spec(name) is None]
sys.exit(f"missing: {missing}; bench/gpu_wheels.sh FOLDER collects {brought}, to be named by WHEELS" if missing else 0)
' "${needed[@]}" || exit 1

if wants build && [ -z "$dry" ]; then
  LIMIT='' step build 100 env HAST_CUDA=ON CUDAARCHS="${CUDAARCHS:-90}" \
    python -m pip install --no-index --no-build-isolation --no-deps . || exit 1
fi
LIMIT='' step info 15 "$PYTHON" -c 'import hast_cuda; print(hast_cuda.__file__, hast_cuda.build_info())' || exit 1

if wants smoke; then
  step smoke 50 "${python[@]}" python_tests/gpu_smoke.py --out "$OUT/checks"
fi

if wants gpu; then
  # What leaves a process behind that should end comes last, alone.
  for entry in streams:40 graphs:40 loops:45 failed_capture:15; do
    file=${entry%:*}
    step "gpu-$file" "${entry#*:}" "${tests[@]}" "python_tests/test_gpu_$file.py"
  done
fi

if wants stress; then
  step stress 40 "${python[@]}" python_tests/gpu_stress.py --out "$OUT/checks" "${maps[@]}"
fi

if wants kernels; then
  step bench-kernels 60 "${python[@]}" bench/bench_kernels.py --device cuda --out "$OUT" --no-compile "${few[@]}"
fi

if wants benches; then
  for op in fake_quantize fake_quantize_weights quantize_activation batch_norm_match channel_attention \
    match_loss soft_round_weights losses; do
    # Compiling takes minutes: run a script alone for it.
    step "bench-$op" 15 "${python[@]}" "bench/bench_$op.py" --device cuda --out "$OUT" --no-compile "${few[@]}"
  done
fi

if wants ops; then
  for op in fake_quantize fake_quantize_weights quantize_activation batch_norm_match batch_norm_activation \
    batch_norm_backward channel_attention distillation_loss hard_sample_loss plateau soft_round_weights; do
    step "op-$op" 13 "${tests[@]}" -k "cuda and not emulated" "python_tests/test_$op.py"
  done
fi

if wants sanitizer; then
  for tool in memcheck racecheck synccheck initcheck; do
    # Without torch's cache of memory every tensor is an allocation, whose bounds the tools know.
    step "sanitizer-$tool" 40 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "${python[@]}" python_tests/gpu_smoke.py --few --out "$OUT/checks/$tool"
  done
fi

if wants step; then
  step bench-step 60 "${python[@]}" bench/bench_step.py --device cuda --out "$OUT" \
    --rounds 20 --seconds 4 --no-compile
fi

if wants memory; then
  step bench-memory 15 "${python[@]}" bench/bench_memory.py --device cuda --out "$OUT"
fi

if wants kernels || wants benches || wants step; then
  mkdir -p "$work/docs"
  printf '<!-- results: start -->\n<!-- results: end -->\n' >"$work/docs/benchmarks-history.md"
  step render 5 "$PYTHON" bench/render.py --results "$OUT" --docs "$work/docs" --parts results
fi

if wants demo; then
  step demo 35 "${hast[@]}" demo --device cuda --out "$work/demo"
  if [ -f "$work/demo/result.json" ]; then cp "$work/demo/result.json" "$OUT/demo-result.txt"; fi
fi

say "$([ $failed -eq 0 ] && echo 'all steps passed' || echo 'FAILED, see steps/') after $SECONDS s"
exit $failed
