#!/usr/bin/env python3
"""Runs unmodified users of llama.cpp on libinfer and on llama.cpp itself, and compares. Called by `make dropin`.

    run.py --compat DIR [--only GROUP...] [--case TEXT] [--write docs/compatibility.md]

Groups: programs (llama.cpp's own, see programs.py), server (llama-server, see server.py), python (llama-cpp-python, see
bindings.py), node (node-llama-cpp, see node.mjs), sources (llama.cpp's examples compiled against the installed headers).
--write makes the table of docs/compatibility.md from the results: it is never edited by hand. Needs Python's standard library
and what `tests/fetch.py dropin` fetched; the programs come from `make reference-programs`.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import bindings
import node
import programs
import server
import sources

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("INFER_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infer")


class Setup:
    """Where everything is, and how to run it."""

    def __init__(self, compat):
        self.compat = Path(compat).resolve()
        self.data = Path(os.environ.get("INFER_TEST_DATA") or REPOSITORY / "target" / "test-data")
        self.bin = Path(os.environ.get("LLAMA_CPP_BIN") or CACHE / "reference-programs" / "bin")
        self.work = REPOSITORY / "target" / "dropin"
        self.work.mkdir(parents=True, exist_ok=True)
        self.model = self.data / "smollm2.gguf"
        self.text = REPOSITORY / "tests" / "data" / "dropin.txt"
        self.vocabs = self.data / "llama.cpp" / "models"
        if not (self.compat / "libllama.so.0").exists():
            sys.exit(f"run.py: {self.compat} is not a compat directory: make stage")

    @property
    def f32(self):
        """The model with f32 weights, made once by llama.cpp's own quantize."""
        path = self.work / "smollm2-f32.gguf"
        if not path.exists():
            new = path.with_suffix(".new")
            done = self.run(self.bin, [str(self.bin / "llama-quantize"), "--allow-requantize", str(self.model), str(new), "f32"], 300)
            if done.code != 0:
                sys.exit(f"run.py: cannot make {path}: {done.stderr[-500:]}")
            new.rename(path)
        return path

    def environment(self, library):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("INFER_", "LLAMA_"))}
        return env | {"LD_LIBRARY_PATH": str(library), "LD_BIND_NOW": "1", "LC_ALL": "C.UTF-8"}

    def run_until(self, library, command, timeout, stdin, prompt, cwd=None):
        """Runs a program that asks for ever: it is ended when it has printed `prompt` a second time."""
        start = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=cwd,
                                   env=self.environment(library))
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        process.stdin.write(stdin.encode())
        process.stdin.flush()
        out = b""
        while out.count(prompt.encode()) < 2 and (data := process.stdout.read1(1 << 16)):
            out += data
        code = process.poll() if process.poll() is not None else 0
        process.kill()
        process.wait()
        timer.cancel()
        complete = out.count(prompt.encode()) >= 2
        return programs.Result(code if complete else code or 124, out.decode("utf-8", "replace"), "", time.monotonic() - start)

    def run(self, library, command, timeout, stdin="", cwd=None):
        start = time.monotonic()
        try:
            done = subprocess.run(command, input=stdin.encode(), capture_output=True, timeout=timeout, cwd=cwd,
                                  env=self.environment(library))
            code, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as e:
            code, out, err = 124, e.stdout or b"", e.stderr or b""
        text = lambda data: data.decode("utf-8", "replace")
        return programs.Result(code, text(out), text(err), time.monotonic() - start)


def run_case(setup, case):
    """Both runs of a program and their comparison: (passed, note)."""
    program = setup.bin / (case.program or case.name.split(" ")[0].rstrip(","))
    if not program.exists():
        return False, f"{program.name} is not built: make reference-programs"
    if case.same is programs.passes:
        ours = run_program(setup, program, case, setup.compat)
        # What llama.cpp makes of a test that judges itself matters only when it fails here.
        return (True, "passes") if ours.code == 0 else judge_failure(setup, program, case, ours)
    theirs = remembered(setup, program, case) or run_program(setup, program, case, setup.bin)
    if theirs.code == 0 and not case.speed:
        remember(setup, program, case, theirs)
    ours = run_program(setup, program, case, setup.compat)
    try:
        return True, case.same(theirs, ours)
    except AssertionError as e:
        return False, f"{e} ({keep_log(setup, case, theirs, ours)})"
    except (KeyError, ValueError, IndexError) as e:
        return False, f"output cannot be read: {e!r}"


def judge_failure(setup, program, case, ours):
    theirs = run_program(setup, program, case, setup.bin)
    log = keep_log(setup, case, theirs, ours)
    complaint = lambda result: (re.findall(r"GGML_ASSERT.*failed", result.stderr) or [f"ends with {result.code}"])[0]
    if theirs.code == ours.code and complaint(theirs) == complaint(ours):
        return True, f"fails with this model on both: {complaint(ours)}"
    return False, f"{complaint(ours)}; on llama.cpp: {'passes' if theirs.code == 0 else complaint(theirs)} ({log})"


def keep_log(setup, case, theirs, ours):
    log = setup.work / (case.name.replace(" ", "-").replace("/", "-") + ".log")
    log.write_text("".join(f"==== {who}: {r.code}\n{r.stdout}\n---- stderr\n{r.stderr}\n"
                           for who, r in (("llama.cpp", theirs), ("libinfer", ours))))
    return log.relative_to(REPOSITORY)


def run_program(setup, program, case, library):
    with tempfile.TemporaryDirectory(dir=setup.work) as out:
        values = {"model": setup.model, "text": setup.text, "vocabs": setup.vocabs, "out": out}
        if any("{f32}" in arg for arg in case.args):
            values["f32"] = setup.f32
        # A JSON schema has braces of its own.
        args = [fill(arg, values) for arg in case.args]
        command = [str(program), *args]
        if case.asks:
            result = setup.run_until(library, command, case.timeout, case.stdin, case.asks, cwd=out)
        else:
            result = setup.run(library, command, case.timeout, case.stdin, cwd=out)
        result.stdout, result.stderr = (text.replace(out, "OUT") for text in (result.stdout, result.stderr))
        for name in case.files:
            path = Path(out) / name
            if path.exists():
                result.files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return result


def memory_of(setup, program, case):
    """Where llama.cpp's result of a case is kept: it does not change while the program and what it is run with do not."""
    what = repr((case.args, case.stdin, case.files, program.stat().st_mtime_ns, setup.text.read_bytes()))
    return setup.work / "theirs" / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.json"


def remembered(setup, program, case):
    try:
        return programs.Result(**json.loads(memory_of(setup, program, case).read_text()))
    except OSError:
        return None


def remember(setup, program, case, result):
    path = memory_of(setup, program, case)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(vars(result)))


def fill(arg, values):
    for name, value in values.items():
        arg = arg.replace("{" + name + "}", str(value))
    return arg


def run_programs(setup, wanted):
    for case in programs.cases():
        if wanted in case.name:
            start = time.monotonic()
            passed, note = run_case(setup, case)
            yield case.name, passed, note, time.monotonic() - start


def timed(scenarios):
    """Scenarios say (name, passed, note) one by one; how long each took is added here."""
    start = time.monotonic()
    for name, passed, note in scenarios:
        now = time.monotonic()
        yield name, passed, note, now - start
        start = now


GROUPS = {
    "programs": ("llama.cpp's programs and tests", run_programs),
    "server": ("llama-server", lambda setup, wanted: timed(server.scenarios(setup, wanted))),
    "python": ("llama-cpp-python 0.3.36", lambda setup, wanted: timed(bindings.scenarios(setup, wanted))),
    "node": ("node-llama-cpp 3.22.1", lambda setup, wanted: timed(node.scenarios(setup, wanted))),
    "sources": ("Sources of llama.cpp's examples, compiled against the installed package",
                lambda setup, wanted: timed(sources.scenarios(setup, wanted))),
}

INTRODUCTION = """# Compatibility

Programs and bindings made for llama.cpp, unmodified, on libinfer's compat directory. This page is written by
`make dropin` (`tests/dropin/run.py`): each line is a run on llama.cpp's own libraries and a run on libinfer, compared.
Programs run with `LD_BIND_NOW=1`. Where text is compared the model is SmolLM2-135M with f32 weights, at temperature 0;
ratios of speed are libinfer's over llama.cpp's, of one short run on two threads.
"""

DIFFERENCES = """## What differs by design

- Where llama.cpp ends the process (a failed assertion, an uncaught exception), libinfer returns the error value that
  `llama.h` documents, logs the reason, and keeps it for `infer_last_error()`.
- Training (`llama_opt_init`, `llama_opt_epoch`) logs that it is not there and changes nothing.
- Compute graphs that a program builds with ggml itself are not computed: multimodal projectors, `llama-cvector-generator` and
  ggml's own tests say that there is no backend or do not start; hooks of a program's own samplers for llama.cpp's graph are
  not called: such a sampler works on the logits afterwards.
- Samplers that are attached to sequences work right after a batch, on the CPU, and show no "+" or "-" before their names.
- `llama_memory_seq_div` turns keys the right way, and YaRN models keep the length of keys when positions shift.
"""


def write(path, results):
    lines = [INTRODUCTION]
    for group, rows in results.items():
        passed = sum(row[1] for row in rows)
        lines += [f"## {GROUPS[group][0]}", "", f"{passed} of {len(rows)} as on llama.cpp.", "",
                  "| what | result | compared |", "|---|---|---|"]
        for name, ok, note, _ in rows:
            lines.append("| {} | {} | {} |".format(*(cell.replace("|", "\\|").replace("\n", " ")
                                                    for cell in (name, "same" if ok else "**differs**", note))))
        lines.append("")
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([*lines, DIFFERENCES]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compat", required=True, help="folder with libllama.so.0 and its companions, links to libinfer")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--write", type=Path, help="the page to write")
    args = parser.parse_args()
    setup = Setup(args.compat)
    results = {}
    failed = 0
    for group in args.only:
        print(f"== {GROUPS[group][0]}", flush=True)
        rows = results.setdefault(group, [])
        for row in GROUPS[group][1](setup, args.case):
            rows.append(row)
            name, passed, note, seconds = row
            print(f"{'ok    ' if passed else 'FAILED'}  {name} ({seconds:.0f} s): {note}", flush=True)
            failed += not passed
    if args.write:
        write(args.write, results)
    total = sum(len(rows) for rows in results.values())
    print(f"{total - failed} of {total} as on llama.cpp")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
