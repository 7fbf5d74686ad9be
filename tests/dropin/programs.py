"""llama.cpp's own programs: what each is run with, and what "the same result" means for it.

A program was built against real llama.cpp. `run.py` runs it twice, once on llama.cpp's libraries and once on libinfer's,
by LD_LIBRARY_PATH alone (with LD_BIND_NOW=1, since lazy binding would hide a missing function), and hands both results to
the case's comparison. Where text is compared the model has f32 weights: then both engines compute the same numbers up to
rounding, and a different word means a different result.
"""

import json
import math
import re
from dataclasses import dataclass, field, replace

PROMPT = "The capital of France is"


@dataclass
class Result:
    """What one run of a program gave."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    files: dict = field(default_factory=dict)


@dataclass
class Case:
    """One program with its arguments. In `args` {model}, {f32}, {text}, {vocabs} and {out} (an empty folder of the run)
    are filled in; `files` are written there. `speed`: what is compared is how fast it was. `asks`: what a
    program that never ends prints when it waits for the next line. `same(theirs, ours)` returns what it compared, and raises AssertionError where they differ."""

    name: str
    args: list
    same: callable
    stdin: str = ""
    files: list = field(default_factory=list)
    timeout: int = 300
    program: str = ""
    speed: bool = False
    asks: str = ""


def require(condition, message):
    if not condition:
        raise AssertionError(message)


def both_succeed(theirs, ours):
    require(theirs.code == 0, f"llama.cpp's own run ends with {theirs.code}")
    require(ours.code == 0, f"ends with {ours.code}")


def passes(theirs, ours):
    """For tests that judge themselves: `run.py` runs them on llama.cpp only when they fail on libinfer."""


def first_difference(a, b):
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return f"differs at {at}: llama.cpp {a[at:at + 60]!r}, libinfer {b[at:at + 60]!r}"


def same_text(clean=lambda text: text):
    """The standard output is the same, after `clean` took out what tells of time or chance."""

    def compare(theirs, ours):
        both_succeed(theirs, ours)
        a, b = clean(theirs.stdout), clean(ours.stdout)
        require(a.strip(), "llama.cpp's own run prints nothing")
        require(a == b, first_difference(a, b))
        return f"same text, {len(a)} bytes"

    return compare


def same_lines(pattern, where="stdout"):
    """The lines that match the pattern are the same; its groups, where it has some, are what counts."""

    def compare(theirs, ours):
        both_succeed(theirs, ours)
        a, b = (re.findall(pattern, getattr(result, where), re.M) for result in (theirs, ours))
        require(a, f"llama.cpp's own run prints nothing like {pattern}")
        require(a == b, first_difference(a, b))
        return f"same lines, {len(a)}"

    return compare


def same_number(pattern, relative, where="stdout"):
    """The number that the pattern's group finds is the same within a relative tolerance."""

    def compare(theirs, ours):
        both_succeed(theirs, ours)
        a, b = (re.findall(pattern, getattr(result, where), re.M) for result in (theirs, ours))
        require(a and b, f"no number like {pattern}")
        a, b = float(a[-1]), float(b[-1])
        require(abs(a - b) <= relative * abs(a), f"llama.cpp {a}, libinfer {b}")
        return f"{b:g}, llama.cpp {a:g}"

    return compare


def same_files(theirs, ours):
    """The files that both wrote are equal byte by byte."""
    both_succeed(theirs, ours)
    require(theirs.files, "llama.cpp's own run writes no file")
    require(theirs.files.keys() == ours.files.keys(), f"{sorted(theirs.files)} and {sorted(ours.files)}")
    for name, digest in theirs.files.items():
        require(digest == ours.files[name], f"{name} differs")
    return "same files: " + ", ".join(sorted(theirs.files))


def same_speed_rows(theirs, ours):
    """llama-bench: the same tests, each with a positive speed."""
    both_succeed(theirs, ours)
    a, b = (json.loads(result.stdout) for result in (theirs, ours))
    key = lambda row: (row["n_prompt"], row["n_gen"], row["n_depth"], row["type_k"])
    require([key(row) for row in a] == [key(row) for row in b], "other tests")
    require(all(row["avg_ts"] > 0 for row in b), "a test without speed")
    name = lambda row: f"{'pp' if row['n_prompt'] else 'tg'}{row['n_prompt'] or row['n_gen']}@d{row['n_depth']}"
    return ", ".join(f"{name(y)} {y['avg_ts'] / x['avg_ts']:.2f} ×" for x, y in zip(a, b))


def same_batched_rows(theirs, ours):
    """llama-batched-bench: the same rows, each with positive speeds."""
    both_succeed(theirs, ours)
    a, b = (
        [[float(cell) for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines() if re.match(r"\| +\d", line)]
        for result in (theirs, ours)
    )
    require(a and [row[:4] for row in a] == [row[:4] for row in b], "other rows")
    require(all(row[-1] > 0 for row in b), "a row without speed")
    return ", ".join(f"{y[2]:g} seq. {y[-1] / x[-1]:.2f} ×" for x, y in zip(a, b))


def cosine(x, y):
    """The cosine of the angle between two vectors."""
    return sum(p * q for p, q in zip(x, y)) / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))


def same_vectors(theirs, ours):
    """llama-embedding: cosine similarity of each embedding above 0.9999."""
    both_succeed(theirs, ours)
    a, b = ([row["embedding"] for row in json.loads(result.stdout)["data"]] for result in (theirs, ours))
    require(len(a) == len(b), f"{len(a)} and {len(b)} embeddings")
    worst = min(map(cosine, a, b))
    require(worst > 0.9999, f"cosine similarity {worst:.6f}")
    return f"{len(a)} embeddings, cosine similarity ≥ {worst:.6f}"


def without_addresses(text):
    return re.sub(r"0x[0-9a-f]+", "ADDRESS", text)


def answers(word):
    """The text is drawn at random; it must be there, and the word somewhere in it where one is asked for."""

    def compare(theirs, ours):
        both_succeed(theirs, ours)
        require(len(ours.stdout.strip()) > 20, f"says only {ours.stdout!r}")
        require(word in ours.stdout, f"{word!r} is missing in {ours.stdout[-200:]!r}")
        return "answers (drawn at random, not comparable)"

    return compare


def bench(*args):
    return ["-m", "{model}", "-t", "2", "-r", "3", "-o", "json", *args]


def generate(*args, n=32):
    return ["-m", "{f32}", "-p", PROMPT, "-n", str(n), "--temp", "0", "-t", "2", "-tb", "2", "-c", "2048", *args]


DRAFT = ["-md", "{model}", "--spec-draft-n-max", "4"]

CASES = [
    Case("llama-bench", bench("-p", "128", "-n", "32"), same_speed_rows, speed=True),
    Case("llama-bench at depth, q8_0 KV", bench("-p", "64", "-n", "16", "-d", "512", "-ctk", "q8_0", "-ctv", "q8_0", "-fa", "1"),
         same_speed_rows, speed=True),
    Case("llama-batched-bench", ["-m", "{model}", "-c", "2048", "-npp", "64", "-ntg", "8", "-npl", "1,2,4", "-t", "2"],
         same_batched_rows, speed=True),
    Case("llama-simple", ["-m", "{f32}", "-n", "12", PROMPT], same_text()),
    Case("llama-simple-chat", ["-m", "{model}", "-c", "128"], answers(""), stdin="What is the capital of France?\n\n"),
    Case("llama-completion", generate("-no-cnv", "--no-warmup"), same_text()),
    Case("llama-completion, JSON schema",
         generate("-no-cnv", "--no-warmup", "-j", '{"type":"object","properties":{"city":{"type":"string"},"inhabitants":'
                  '{"type":"integer"}},"required":["city","inhabitants"]}'), same_text()),
    Case("llama-completion, context shift",
         ["-m", "{f32}", "-p", PROMPT, "-n", "300", "--temp", "0", "-c", "256", "-t", "2", "-no-cnv", "--no-warmup",
          "--context-shift", "--keep", "4", "--ignore-eos"], same_text()),
    Case("llama-cli", ["-m", "{f32}", "-p", "What is the capital of France?", "-n", "32", "--temp", "0", "-t", "2", "-st",
                       "--simple-io"],
         same_text(lambda text: re.sub(r"\[ Prompt: .*\]", "", text.split("> What", 1)[-1]))),
    Case("llama-batched", generate("-np", "3", "-kvu", n=24), same_text()),
    Case("llama-parallel", ["-m", "{f32}", "-np", "2", "-ns", "4", "-n", "24", "--temp", "0", "-s", "1", "-t", "2", "-c", "2048"],
         same_lines(r"Total (prompt|gen) tokens: +(\d+)", "stderr")),
    Case("llama-passkey", ["-m", "{f32}", "--junk", "20", "-s", "1", "-t", "2"],
         same_lines(r"^ *(\d+\. Remember it\..*)$")),
    Case("llama-lookup", ["-m", "{f32}", "-p", "one two three four one two three four one two three", "-n", "32", "--temp", "0", "-t",
                          "2", "-c", "2048", "--spec-draft-n-max", "3"], same_text()),
    Case("llama-lookahead", generate(), same_text()),
    Case("llama-speculative", generate(*DRAFT), same_text()),
    Case("llama-speculative-simple", generate(*DRAFT, "--spec-type", "draft-simple"), same_text()),
    Case("llama-retrieval", ["-m", "{f32}", "--context-file", "{text}", "--chunk-size", "100", "--chunk-separator", ".",
                             "--top-k", "2", "--pooling", "mean", "-t", "2"],
         same_lines(r"^filename: |^filepos: \d+|^similarity: [\d.]{5}"), stdin="how is speed measured\n", asks="Enter query: "),
    Case("llama-embedding", ["-m", "{f32}", "-p", "hello world<#sep#>The capital of France", "--embd-separator", "<#sep#>",
                             "--pooling", "mean", "--embd-output-format", "json", "-t", "2"], same_vectors),
    Case("llama-tokenize", ["-m", "{model}", "-p", "Hello world, how are you? ünïcödé 😀", "--ids"], same_text()),
    Case("llama-perplexity", ["-m", "{f32}", "-f", "{text}", "-c", "512", "-t", "2"],
         same_number(r"PPL = ([\d.]+)", 0.001, "stderr")),
    Case("llama-perplexity, Q4_1", ["-m", "{model}", "-f", "{text}", "-c", "512", "-t", "2"],
         same_number(r"PPL = ([\d.]+)", 0.02, "stderr")),
    Case("llama-imatrix", ["-m", "{f32}", "-f", "{text}", "-c", "512", "-t", "2", "-o", "{out}/imatrix.gguf"],
         same_number(r"PPL = ([\d.]+)", 0.001)),
    Case("llama-quantize Q8_0", ["{f32}", "{out}/q8_0.gguf", "q8_0", "2"], same_files, files=["q8_0.gguf"]),
    Case("llama-quantize Q4_0", ["--pure", "{f32}", "{out}/q4_0.gguf", "q4_0", "2"], same_files, files=["q4_0.gguf"]),
    Case("llama-quantize Q4_K_M", ["{f32}", "{out}/q4_k_m.gguf", "q4_k_m", "2"],
         same_number(r"quant size += +([\d.]+) MiB", 0.0, "stderr")),
    Case("llama-gguf write", ["{out}/new.gguf", "w"], same_files, files=["new.gguf"]),
    Case("llama-gguf read", ["{model}", "r", "n"],
         same_text(lambda text: re.sub(r"tensor\[\d+\]: n_dims.*|.*data.*", "", without_addresses(text)))),
    Case("llama-gguf-split", ["--split", "--split-max-tensors", "100", "{model}", "{out}/part"], same_files,
         files=[f"part-0000{i}-of-00003.gguf" for i in (1, 2, 3)]),
    Case("llama-eval-callback", ["-m", "{f32}", "-p", "Hello", "-n", "1", "-t", "2"],
         same_lines(r"(l_out-\d+|result_norm|result_output) = .*= (\{.*\})")),
    Case("llama-idle", ["-m", "{model}", "-t", "2"], passes),
    Case("test-tokenizer-0", ["{vocabs}/ggml-vocab-VOCAB.gguf"], same_lines(r"^(tok|res): (.*)")),
    Case("test-save-load-state", ["-m", "{model}", "-t", "2", "-s", "1"], passes),
    Case("test-state-restore-fragmented", ["-m", "{model}", "-t", "2"], passes),
    Case("test-thread-safety", ["-m", "{model}", "-p", "The meaning of life is", "-n", "8", "-c", "256", "-ub", "32", "-np", "2",
                                "-t", "2"], passes),
    Case("test-model-load-cancel", ["{model}"], passes),
    Case("test-autorelease", ["{model}"], passes),
    Case("test-backend-sampler", ["--model", "{model}", "--test", "SAMPLER_TEST"], passes),
    Case("test-reasoning-budget", [], passes),
    Case("test-chat-template", [], passes),
    Case("test-export-graph-ops", ["-m", "{model}", "-o", "{out}/ops.txt"], passes),
    Case("test-c", [], passes),
]

VOCABS = ["bert-bge", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "llama-bpe", "llama-spm", "mpt",
          "phi-3", "qwen2", "qwen35", "refact", "starcoder"]


SAMPLER_TESTS = ["greedy", "logit_bias", "penalties", "temp", "temp_ext", "top_k", "multi_sequence", "dist", "dist_and_cpu",
                 "set_sampler", "multi_output_limit", "multi_sequence_multi_output_dist", "multi_output_dist_transaction",
                 "multi_output_sampling_chain", "multi_output_cpu", "mixed", "min_p", "cpu_mixed", "top_p"]


def cases():
    """All cases: the tokenizer test once for each of llama.cpp's vocabularies that have reference answers, the test of
    samplers that work while a batch is computed once for each of its parts, which would else end at the first failure."""
    many = {"VOCAB": VOCABS, "SAMPLER_TEST": SAMPLER_TESTS}
    for case in CASES:
        word = next((word for word in many if any(word in arg for arg in case.args)), None)
        for value in many.get(word, [""]):
            name = f"{case.name} {value}".strip()
            yield replace(case, name=name, args=[arg.replace(word or "", value) if word else arg for arg in case.args])
