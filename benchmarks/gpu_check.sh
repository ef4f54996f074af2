#!/usr/bin/env bash
# Everything that only a GPU can show, in under eight minutes: benchmarks/gpu_check.sh FOLDER
#
# Builds the native modules for the card at hand into kernels/, runs the tests that need one, the sanitizer, and the
# operator tables. Needs nvcc, CMake, and a Python (PYTHON=python3) with CuPy, PyTorch, SciPy, pybind11 and pytest;
# installs nothing; the CUDA module of an editable installation is afterwards one for this card alone. Every step writes into FOLDER: a log, and JSON. The exit status is the number of failed steps.
set -uo pipefail
if [ $# -ne 1 ] || [ "${1#-}" != "$1" ]; then
  echo "folder: expected one argument, where results go, got $#; run benchmarks/gpu_check.sh results" >&2
  exit 2
fi
mkdir -p "$1" || exit 2
results=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-python3}
if ! "$python" -c 'import cupy; assert cupy.cuda.runtime.getDeviceCount() > 0' 2>/dev/null; then
  echo "gpu: expected an NVIDIA GPU that CuPy can use, got none; run it where '$python' has CuPy and sees a GPU" >&2
  exit 2
fi
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=4
export PYTHONPATH=$PWD
failed=0
summary=()

step() { # step NAME SECONDS COMMAND…
  local name=$1 limit=$2 status started=$SECONDS
  shift 2
  echo "== $name"
  timeout "$limit" "$@" >"$results/$name.log" 2>&1
  status=$?
  tail -n 4 "$results/$name.log"
  [ $status -eq 0 ] || failed=$((failed + 1))
  summary+=("{\"step\": \"$name\", \"status\": $status, \"seconds\": $((SECONDS - started))}")
}

build() {
  cmake -S . -B build/gpu -DTPDM_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" || return
  cmake --build build/gpu -j "$(nproc)" && cmake --install build/gpu --prefix . &&
    "$python" -c 'import kernels._cuda; print(kernels._cuda.__file__)'
}

export -f build
export python
step build 90 bash -c build
pytest=("$python" -m pytest -q -m cuda -p no:cacheprovider)
# The files with tests on CuPy; others import what a machine for kernels need not have.
step tests 100 "${pytest[@]}" tests/kernels tests/engine/sampling tests/engine/operators tests/engine/test_volume.py \
  --junitxml="$results/tests.xml"
# Each kernel at least once, on small arrays: under the sanitizer a launch takes a hundred times as long.
sanitizer=$(command -v compute-sanitizer || echo "$(dirname "$(readlink -f "$(command -v nvcc)")")/compute-sanitizer")
step memcheck 70 "$sanitizer" --tool memcheck --report-api-errors no --error-exitcode 99 "$python" -m benchmarks.gpu.every_kernel
# Libraries that CuPy calls have harmless reports of their own here: only those of our kernels count.
initcheck() {
  "$sanitizer" --tool initcheck "$python" -m benchmarks.gpu.every_kernel | tee "$results/initcheck.txt" || return
  ! grep -q 'tpdm::' "$results/initcheck.txt"
}
export -f initcheck
export sanitizer results
step initcheck 70 bash -c 'set -o pipefail; initcheck'
step limits 30 "$python" -m benchmarks.gpu.projection_limits --results "$results"
step operators 120 "$python" benchmarks/operators.py --device cuda --slices 256 --views 256 --repeats 5 \
  --results "$results"

{
  echo "{\"command\": \"benchmarks/gpu_check.sh\", \"failed\": $failed,"
  echo "\"gpu\": \"$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1)\","
  echo "\"nvcc\": \"$(nvcc --version | grep -o 'release [0-9.]*')\","
  (IFS=,; echo "\"steps\": [${summary[*]}]}")
} >"$results/gpu_check.json"
echo "== $failed failed; results in $results"
exit $failed
