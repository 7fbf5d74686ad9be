"""llama-cpp-python 0.3.36, its Python code as published: its own test-suite and its high-level interface, offline."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

from server import same

HERE = Path(__file__).resolve().parent

# Repositories that the package's tests download from, and the vocabulary of the tiny model that takes their place; all
# others become SmolLM2.
TINY_MODELS = {"CompendiumLabs/bge-small-en-v1.5-gguf": "bert-bge"}

# Tests that expect the words of Qwen 3.5, or a recurrent model: with SmolLM2 they fail on every library.
OTHER_MODEL = re.compile(r"\.test_real_(model|llama|llama_repeated_prompt_cache)$|recurrent|hybrid")


def scenarios(setup, wanted):
    """Each test of the package and each scenario: (name, passed, note)."""
    for needed in ("llama-cpp-python", "python-packages"):
        if not (setup.data / needed).exists():
            yield "llama-cpp-python", False, f"{needed} is missing: tests/fetch.py {needed}"
            return
    libraries = {"libinfer": setup.compat}
    if (setup.bin / "libllama.so").exists():
        libraries["llama.cpp"] = setup.bin
    packages = {who: prepare(setup, who, library) for who, library in libraries.items()}
    yield from compare_suites(setup, packages, libraries, wanted)
    yield from compare_scenarios(setup, packages, libraries, wanted)


def prepare(setup, who, library):
    """A copy of the package whose lib/ is the library's folder."""
    root = setup.work / f"python-{who}"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(setup.data / "llama-cpp-python", root, symlinks=True)
    lib = root / "llama_cpp" / "lib"
    shutil.rmtree(lib, ignore_errors=True)
    lib.symlink_to(library)
    (root / "vendor").mkdir()
    (root / "vendor" / "llama.cpp").symlink_to(setup.data / "llama.cpp")
    return root


def environment(setup, root, library):
    path = os.pathsep.join(str(p) for p in (root, HERE / "stubs", setup.data / "python-packages"))
    return setup.environment(library) | {"PYTHONPATH": path, "LLAMA_CPP_LIB_PATH": str(library), "PYTHONDONTWRITEBYTECODE": "1",
                                         "DROPIN_MODELS": os.pathsep.join([*tiny_models(setup), str(setup.model)])}


def tiny_models(setup):
    """`repository=path` for each tiny model, which is made when it is missing."""
    for repository, vocab in TINY_MODELS.items():
        path = setup.work / f"tiny-{vocab}.gguf"
        if not path.exists():
            new = path.with_suffix(".new")
            subprocess.run([sys.executable, str(HERE / "tiny_model.py"), str(setup.vocabs / f"ggml-vocab-{vocab}.gguf"), str(new)],
                           env=os.environ | {"PYTHONPATH": str(setup.data / "python-packages")}, check=True)
            new.rename(path)
        yield f"{repository}={path}"


def compare_suites(setup, packages, libraries, wanted):
    outcomes = {who: run_suite(setup, packages[who], libraries[who]) for who in packages}
    ours, theirs = outcomes["libinfer"], outcomes.get("llama.cpp")
    if not ours:
        yield "test-suite", False, "pytest did not run; see target/dropin/python-libinfer/pytest.log"
    for test, (outcome, reason) in ours.items():
        if wanted not in test:
            continue
        if theirs is None:
            other_model = outcome == "failed" and OTHER_MODEL.search(test) is not None
            note = "needs another model than SmolLM2" if other_model else f"{outcome} {reason}".strip()
            yield test, outcome == "passed" or other_model, note
        else:
            other, other_reason = theirs.get(test, ("missing", ""))
            # Tests that expect the words of one model, or a recurrent one, fail with SmolLM2 on every library.
            note = "passes" if outcome == other == "passed" else f"with SmolLM2 instead of its model: {outcome} ({reason}); on llama.cpp: {other} ({other_reason})"
            yield test, other == outcome, note


def run_suite(setup, root, library):
    """Outcome and reason of each test."""
    report = root / "junit.xml"
    with open(root / "pytest.log", "w") as log:
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "tests"],
                       cwd=root, env=environment(setup, root, library), stdout=log, stderr=subprocess.STDOUT, timeout=1800)
    if not report.exists():
        return {}
    outcomes = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        problem = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        outcome = "passed" if problem is None else {"failure": "failed", "error": "error", "skipped": "skipped"}[problem.tag]
        reason = "" if problem is None else problem.get("message", "").splitlines()[0][:90]
        outcomes[f"{case.get('classname')}.{case.get('name')}"] = (outcome, reason)
    return outcomes


def compare_scenarios(setup, packages, libraries, wanted):
    results = {}
    for who, root in packages.items():
        done = subprocess.run([sys.executable, str(HERE / "python_scenarios.py"), str(scenario_model(setup))], cwd=root,
                              env=environment(setup, root, libraries[who]), capture_output=True, text=True, timeout=1800)
        (root / "scenarios.log").write_text(done.stderr)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        results[who] = {line["name"]: line for line in lines}
    if not results["libinfer"]:
        yield "high-level interface", False, "did not run; see target/dropin/python-libinfer/scenarios.log"
    for name, line in results["libinfer"].items():
        if wanted not in name:
            continue
        other = results.get("llama.cpp", {}).get(name)
        title = f"high-level interface: {name.replace('_', ' ')}"
        if not line["passed"]:
            yield title, False, line["result"]
        elif other is None:
            yield title, True, "does what it should"
        else:
            equal = same(other["result"], line["result"])
            yield title, equal, "same result" if equal else f"llama.cpp {str(other['result'])[:80]}, libinfer {str(line['result'])[:80]}"


def scenario_model(setup):
    """f32 weights where both libraries are compared: then texts must be equal."""
    return setup.f32 if (setup.bin / "llama-quantize").exists() else setup.model
