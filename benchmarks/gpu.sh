#!/bin/sh
# Everything about a GPU, within nine minutes, without a network; see benchmarks/gpu.py and docs/gpu.md.
cd "$(dirname "$0")/.." || exit 1
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
