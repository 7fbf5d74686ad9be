#!/bin/bash
# reference_programs.sh: builds llama.cpp's programs and tests against llama.cpp itself, in the cache, from the source that
# `tests/fetch.py llama.cpp-source` put there. About ten minutes on two cores. Called by `make reference-programs`.
set -euo pipefail
cache=${INFER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/infer}
data=${INFER_TEST_DATA:-$(cd "$(dirname "$0")/.." && pwd)/target/test-data}
build=$cache/reference-programs

programs=(
    llama-{bench,simple,simple-chat,batched,batched-bench,parallel,passkey,lookup,lookahead,speculative,speculative-simple}
    llama-{retrieval,embedding,tokenize,perplexity,imatrix,quantize,gguf,gguf-split,completion,cli,server,idle,eval-callback}
    test-{tokenizer-0,save-load-state,state-restore-fragmented,thread-safety,model-load-cancel,autorelease}
    test-{backend-sampler,reasoning-budget,chat-template,export-graph-ops,c}
)

[ -d "$data/llama.cpp-source" ] || { echo "error: llama.cpp's source is missing: tests/fetch.py llama.cpp-source" >&2; exit 1; }
cmake -S "$(readlink -f "$data/llama.cpp-source")" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DLLAMA_BUILD_TESTS=ON -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_CURL=OFF -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_EXAMPLES=ON
cmake --build "$build" --parallel "$(nproc)" --target "${programs[@]}"
for program in "${programs[@]}"; do
    [ -x "$build/bin/$program" ] || { echo "error: $program was not built" >&2; exit 1; }
done
