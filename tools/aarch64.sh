#!/usr/bin/env bash
# Cross-compiles fused-acts for aarch64 and tests it under qemu, as two processors, with and without the BF16
# instructions, at once. It tells nothing of speed.
#
#   tools/aarch64.sh setup              only what the others begin with: tools, Python and torch, see below
#   tools/aarch64.sh [short]            values, gradients, special values, 16-bit numbers; minutes
#   tools/aarch64.sh long               those marked slow too, options, layouts, second derivatives, memory; far longer
#   tools/aarch64.sh PYTEST_ARGUMENT... these tests
#
# $PYTHON (.venv/bin/python, of `make test`) has the torch whose headers it compiles with, pip, setuptools and ninja.
# Compiler, qemu and mmdebstrap are Debian's packages, installed where they lack, for root. Python and torch for aarch64
# are downloaded into .venvs/aarch64/, whose `python` is one like any other; $QEMU_CPU is its processor.
set -euo pipefail
cd "$(dirname "$0")/.."

# Newer than the compiler's, since libraries run with later ones only.
suite=trixie python=3.13
torch=torch==2.10.0 # the last on PyPI that is built without CUDA for aarch64
# Without pointer authentication, which has no bearing on us and takes qemu as long as all the rest.
processors=('max,pauth=off' neoverse-n1)

root=$PWD/.venvs/aarch64
packages=$root/sysroot/usr/lib/python3/dist-packages
export PYTHON=${PYTHON:-.venv/bin/python} UV_CACHE_DIR=$root/cache

# need COMMAND PACKAGE
need() {
  command -v "$1" >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing $2"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2" >/dev/null
  else
    echo "needs $1: apt-get install $2" >&2
    return 1
  fi
}

# Of wheels for aarch64, whatever the machine is; pip would take its own markers for theirs
install_wheels() {
  "$PYTHON" -m uv pip install --quiet --python-platform aarch64-unknown-linux-gnu --python-version $python \
    --target "$packages" --only-binary :all: "$@"
}

setup() {
  need aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
  need qemu-aarch64 qemu-user
  need mmdebstrap mmdebstrap
  if [ ! -d "$root/sysroot" ]; then
    rm -rf "$root"
    mkdir -p "$root"
    mmdebstrap --quiet --variant=extract --arch=arm64 --include=base-files,python3,libgomp1,libstdc++6 $suite "$root/part"
    mv "$root/part" "$root/sysroot"
  fi
  "$PYTHON" -m pip install --quiet uv
  install_wheels $torch numpy setuptools pytest expecttest hypothesis
  cat >"$root/python" <<END
#!/bin/sh
exec qemu-aarch64 -0 "\$0" -L "$root/sysroot" "$root/sysroot/usr/bin/python3" "\$@"
END
  chmod +x "$root/python"
}

# By setup.py's rules: what it links comes from the torch for aarch64, and a wheel for aarch64 becomes of it
build() {
  rm -rf "$root/wheel"
  _PYTHON_HOST_PLATFORM=linux-aarch64 CXX=aarch64-linux-gnu-g++ LDFLAGS="-L'$packages/torch/lib' ${LDFLAGS:-}" FUSED_ACTS_CUDA=0 \
    "$PYTHON" -m pip wheel -v --no-build-isolation --no-deps --wheel-dir "$root/wheel" .
  install_wheels --no-deps --reinstall "$root"/wheel/*.whl
}

# test_as PROCESSOR PYTEST_ARGUMENT...: bytecode is kept, or importing torch takes half a minute
test_as() (
  unset PYTHONDONTWRITEBYTECODE
  export QEMU_CPU=$1
  printf '\n--- as %s\n' "$1"
  "$root/python" -P -m pytest -p no:cacheprovider "${@:2}"
)

run() {
  local first status=0
  test_as "${processors[0]}" "$@" >"$root/first.log" 2>&1 &
  first=$!
  test_as "${processors[1]}" "$@" 2>&1 | tee "$root/second.log" || status=$?
  wait $first || status=$?
  cat "$root/first.log"
  tail -qn 1 "$root"/{first,second}.log | tr -d = | paste -sd ';' # for summaries
  return $status
}

short=(tests/test_{values,gradients,special_values,exhaustive}.py)
long=("${short[@]}" tests/test_{bias,dim,infinite,kinks,learned,limits,maxout,memory,memory_format,nested,operators,options}.py
  tests/test_{out,overlap,product,rounding,second_order,second_order_options,row_units,softmax_glu}.py)
tests=("$@")
case ${1:-short} in
  short) tests=(-m 'not cuda and not slow' "${short[@]}") ;;
  long) tests=(-m 'not cuda' "${long[@]}") ;;
esac
setup
[ "${1:-}" = setup ] || { build; run "${tests[@]}"; }
