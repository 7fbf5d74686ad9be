#!/bin/bash
# programs.sh COMPAT_DIR MODEL: runs programs that were built against real llama.cpp on libinfer, through LD_LIBRARY_PATH
# alone, and checks what they print. LLAMA_CPP_BIN names the folder with llama-bench, llama-simple and
# llama-batched-bench; by default it is where `make reference-programs` puts them. Called by `make test-programs`.
set -euo pipefail
compat=$(cd "$1" && pwd)
model=$2
cache=${INFER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/infer}
bin=${LLAMA_CPP_BIN:-$cache/reference-programs/bin}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0
failed=0

for program in llama-bench llama-simple llama-batched-bench; do
    [ -x "$bin/$program" ] || { echo "error: $bin/$program is missing: make reference-programs" >&2; exit 1; }
done

# test NAME CHECK COMMAND...: the command must succeed on libinfer, and CHECK accept its standard output.
test_program() {
    local name=$1 check=$2
    shift 2
    if LD_LIBRARY_PATH=$compat timeout 600 "$@" </dev/null >"$log.out" 2>"$log" && $check <"$log.out"; then
        echo "ok      $name"
        passed=$((passed + 1))
    else
        echo "FAILED  $name: $*"
        tail -n 20 "$log.out" "$log"
        failed=$((failed + 1))
    fi
    rm -f "$log.out"
}

# Every llama.cpp library that a program of $bin asks for must come from libinfer, or the test would test llama.cpp.
loads_libinfer() {
    local found
    found=$(grep -E '^[[:space:]]*lib(llama|ggml|ggml-base|ggml-cpu)\.so' || true)
    [ -n "$found" ] && ! grep -v -F "$compat/" <<<"$found"
}

says_paris() { grep -q 'Paris'; }

bench_rows() {
    python3 -c '
import json, sys
rows = json.load(sys.stdin)
assert [(row["n_prompt"], row["n_gen"]) for row in rows] == [(64, 0), (0, 16)], rows
assert all(row["avg_ts"] > 0 for row in rows), rows
for row in rows:
    kind = "prefill" if row["n_prompt"] else "decode"
    print("        %s: %.1f tokens/s" % (kind, row["avg_ts"]))
'
}

# One row for each number of sequences, with positive speeds in the last column.
batched_rows() {
    awk -F'|' '/^\|[[:space:]]*64 / { rows++; if ($(NF - 1) + 0 <= 0) bad = 1 } END { exit rows != 3 || bad }'
}

for program in llama-bench llama-simple llama-batched-bench; do
    test_program "$program loads libinfer" loads_libinfer ldd "$bin/$program"
done
test_program llama-simple says_paris "$bin/llama-simple" -m "$model" -n 16 'The capital of France is'
test_program llama-bench bench_rows "$bin/llama-bench" -m "$model" -p 64 -n 16 -r 2 -t 2 -o json
test_program llama-batched-bench batched_rows \
    "$bin/llama-batched-bench" -m "$model" -c 1024 -npp 64 -ntg 8 -npl 1,2,4 -t 2 -tb 2

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
