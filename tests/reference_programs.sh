#!/bin/bash
# reference_programs.sh: builds llama.cpp's llama-bench, llama-simple and llama-batched-bench against llama.cpp itself, in
# the cache, from the source that `tests/fetch.py llama.cpp-source` put there. Called by `make reference-programs`.
set -euo pipefail
cache=${INFER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/infer}
data=${INFER_TEST_DATA:-$(cd "$(dirname "$0")/.." && pwd)/target/test-data}
build=$cache/reference-programs

[ -d "$data/llama.cpp-source" ] || { echo "error: llama.cpp's source is missing: tests/fetch.py llama.cpp-source" >&2; exit 1; }
cmake -S "$(readlink -f "$data/llama.cpp-source")" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_MTMD=OFF -DLLAMA_CURL=OFF \
    -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_EXAMPLES=ON
cmake --build "$build" --parallel "$(nproc)" --target llama-bench llama-simple llama-batched-bench
ls "$build"/bin/llama-{bench,simple,batched-bench}
