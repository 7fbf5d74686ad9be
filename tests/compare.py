#!/usr/bin/env python3
"""Measures libinfer beside llama.cpp: the same llama-bench on both libraries, in turns, medians of several rounds.

    tests/compare.py COMPAT_DIR MODEL...

The program is llama.cpp's own, built by `make reference-programs` ($LLAMA_CPP_BIN names another folder); which library it
runs on is a matter of LD_LIBRARY_PATH. Only the ratios mean something: machines differ, and are shared. Called by
`make compare`; $ROUNDS and $THREADS change the defaults of 5 and 2.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROUNDS = int(os.environ.get("ROUNDS", 5))
THREADS = os.environ.get("THREADS", "2")
CACHE = os.environ.get("INFER_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infer"
BENCH = Path(os.environ.get("LLAMA_CPP_BIN") or Path(CACHE) / "reference-programs" / "bin") / "llama-bench"

# (name of the row, what llama-bench calls it)
ROWS = [("prefill of 512 tokens", (512, 0)), ("decode of 64 tokens", (0, 64))]


def bench(model, compat):
    """Tokens per second by (n_prompt, n_gen)."""
    environment = dict(os.environ)
    environment.pop("LD_LIBRARY_PATH", None)
    if compat:
        environment["LD_LIBRARY_PATH"] = compat
    command = [BENCH, "-m", model, "-p", "512", "-n", "64", "-t", THREADS, "-r", "1", "-o", "json"]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"compare.py: llama-bench failed on {compat or 'llama.cpp'}:\n{done.stderr[-2000:]}")
    return {(row["n_prompt"], row["n_gen"]): row["avg_ts"] for row in json.loads(done.stdout)}


def main(compat, models):
    if not BENCH.exists():
        sys.exit(f"compare.py: {BENCH} is missing: make reference-programs")
    compat = str(Path(compat).resolve())
    print(f"{'model':24}{'':24}{'libinfer':>10}{'llama.cpp':>11}{'ratio':>8}")
    for model in models:
        rounds = [(bench(model, compat), bench(model, None)) for _ in range(ROUNDS)]
        for name, key in ROWS:
            ours = statistics.median(ours[key] for ours, _ in rounds)
            theirs = statistics.median(theirs[key] for _, theirs in rounds)
            # The ratio within a round is safe from what the machine did meanwhile.
            ratio = statistics.median(ours[key] / theirs[key] for ours, theirs in rounds)
            print(f"{Path(model).name:24}{name:24}{ours:10.1f}{theirs:11.1f}{ratio:8.2f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
