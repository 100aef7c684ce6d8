#!/usr/bin/env bash
# All that needs a GPU, in one run without network: build, tests, compute-sanitizer, timings.
#
#   tools/gpu_check.sh [--seconds N] [--no-timings] [OUT]
#
# Takes at most N seconds (540, or $FUSED_ACTS_GPU_CHECK_S). Writes into the folder OUT ($OUT, or
# gpu-check): gpu_check.json, gpu_check.md with the table for docs/kernels.md, gpu_check.log.
#
# $PYTHON (python3) must have torch 2.10 or later for CUDA, pip, setuptools, ninja, pytest
# and numpy; nvcc is on PATH, in $CUDA_HOME or in /usr/local/cuda. Built for the GPU that is there,
# or for $TORCH_CUDA_ARCH_LIST. $FUSED_ACTS_GPU_CHECK_JOBS (4) test files run at once.
#
# A part has its own limit of time, and one that fails stops no other. The exit status is 1 if any
# has failed; what was left out, or cut short, is said and is no failure.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
seconds=${FUSED_ACTS_GPU_CHECK_S:-540} timings=yes out=${OUT:-gpu-check}
while (($#)); do
  case $1 in
    --seconds) seconds=$2 && shift ;;
    --no-timings) timings='' ;;
    -*) sed -n '2,/^set/{/^set/!s/^# \?//p}' "$0" >&2 && exit 2 ;;
    *) out=$1 ;;
  esac
  shift
done

export PYTHON=${PYTHON:-python3} work
PYTHON=$(command -v "$PYTHON") || { echo "PYTHON is no program" >&2; exit 2; }
out=$(realpath -m "$out")
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
mkdir "$work/parts" "$work/site"
export end=$(($(date +%s) + seconds - 10)) # the report takes some of it
cd "$work" || exit 2 # whose parent has no fused_acts/ that is not built

# part NAME LIMIT COMMAND...: at most LIMIT seconds of what is left; .status is the exit status
part() {
  local name=$1 limit=$2 status=0 start left log=$work/parts/$1.log
  shift 2
  start=$(date +%s) left=$((end - $(date +%s)))
  ((limit < left)) || limit=$left
  ((limit > 5)) || { leave_out "$name" 'time was up'; return 1; }
  timeout -k 5 -s INT "$limit" "$@" >"$log" 2>&1 || status=$?
  echo "$status" >"$work/parts/$name.status"
  echo "$(($(date +%s) - start))" >"$work/parts/$name.seconds"
  printf '%-28s %4d s  exit status %d\n' "$name" "$(($(date +%s) - start))" "$status"
  return "$status"
}

# leave_out NAME REASON
leave_out() {
  echo - >"$work/parts/$1.status"
  echo "$2" >"$work/parts/$1.log"
}

# test_file UNTIL FILE: a process each, for an error of the device is one of all later calls
test_file() {
  local name
  name=$(basename "$2" .py)
  part "$name" $(($1 - $(date +%s))) "$PYTHON" -m pytest -q -p no:cacheprovider -m 'cuda and not slow' "$2"
  return 0
}
export -f part leave_out test_file

# Those that matter most first
test_files() {
  local first=(values gradients exhaustive options ffn ffn_memory cuda shapes views special_values softmax_glu row_units)
  {
    for name in "${first[@]}"; do echo "$root/tests/test_$name.py"; done
    grep -lwE 'DEVICES|CUDA|mark\.cuda' "$root"/tests/test_*.py
  } | awk '!seen[$0]++'
}

compute_sanitizer=$(PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:/usr/local/cuda/bin command -v compute-sanitizer)
# sanitizer TOOL: every kernel, forward and backward; each tensor its own allocation
sanitizer() {
  [ "$compute_sanitizer" ] || { leave_out "$1" 'no compute-sanitizer'; return; }
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 part "$1" $((seconds * 11 / 100)) "$compute_sanitizer" --tool "$1" \
    --error-exitcode 9 "$PYTHON" -m fused_acts selftest --device cuda --no-speed
}

architecture='import torch; print("%d.%d" % torch.cuda.get_device_capability())'
TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$PYTHON" -c "$architecture")} || exit 2
export TORCH_CUDA_ARCH_LIST FUSED_ACTS_CUDA=1
mkdir -p "$out" || exit 2
echo "at most $seconds s, CUDA kernels for $TORCH_CUDA_ARCH_LIST, into $out"

if part build $((seconds * 45 / 100)) "$PYTHON" -m pip install -v --no-index --no-cache-dir --no-deps \
  --no-build-isolation --target "$work/site" "$root"; then
  export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
  part info 60 "$PYTHON" -m fused_acts info
  part selftest 90 "$PYTHON" -m fused_acts selftest --device cuda $([ "$timings" ] || echo --no-speed)
  share=28
  [ "$timings" ] || share=60
  until=$(($(date +%s) + seconds * share / 100))
  test_files | xargs -P "${FUSED_ACTS_GPU_CHECK_JOBS:-4}" -I{} bash -c "test_file $until {}"
  sanitizer memcheck
  sanitizer racecheck
  if [ "$timings" ]; then
    left=$((end - $(date +%s)))
    PYTHONPATH=$PYTHONPATH:$root part timings "$left" "$PYTHON" -m bench units --device cuda \
      --budget $((left - 30)) --output "$work/units"
  else
    leave_out timings 'by --no-timings'
  fi
fi
"$PYTHON" "$root/tools/gpu_report.py" "$work" "$out"
