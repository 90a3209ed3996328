#!/usr/bin/env bash
# Gathers in .gpu/wheels what a GPU machine without a network may lack: dlf, and what it needs beside JAX and PyTorch, for
# one version of Python. Usage: bash tests/gpu/prepare.sh [3.12]; then copy the checkout there and run
# python tests/gpu/check.py --wheels .gpu/wheels --out FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${1:-3.12}
rm -rf .gpu && mkdir -p .gpu/wheels
python3 -m pip wheel -q --no-deps -w .gpu/wheels .
platforms=()
for glibc in 2_39 2_35 2_34 2_31 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
python3 -m pip download -q --no-deps --only-binary=:all: --python-version "$python" --implementation cp "${platforms[@]}" \
  --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -d .gpu/wheels \
  'keras>=3.15.1,<4' namex optree grandalf tensorboardX wrapt
ls -l .gpu/wheels
