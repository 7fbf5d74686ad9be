"""node-llama-cpp 3.22.1 from npm with its prebuilt addon: its own libllama-common.so stays, llama.cpp's libraries are
exchanged by LD_LIBRARY_PATH."""

import json
import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = ["libllama.v0.5.0.so", "libggml.v0.5.0.so", "libggml-base.so"]


def scenarios(setup, wanted):
    """Each scenario of scenarios.mjs: (name, passed, note)."""
    package = setup.data / "node-llama-cpp"
    if not package.exists():
        yield "node-llama-cpp", False, "missing: tests/fetch.py node-llama-cpp"
        return
    ours = run(setup, package, links(setup))
    # Without an exchange the addon finds llama.cpp beside itself.
    theirs = run(setup, package, setup.work / "nothing")
    if not ours:
        yield "node-llama-cpp", False, "did not run; see target/dropin/node-links.log"
    for name, line in ours.items():
        if wanted not in name:
            continue
        other = theirs.get(name, {"passed": False, "result": "did not run"})
        if not line["passed"]:
            yield name, False, f"{line['result']}; llama.cpp: {str(other['result'])[:80]}"
        else:
            yield name, *compare(name, other["result"], line["result"])


def compare(name, theirs, ours):
    if name == "embeddings" and isinstance(theirs, list):
        worst = max(abs(x - y) for x, y in zip(theirs, ours))
        return worst <= 2, f"{len(ours)} numbers, largest difference {worst / 500:.3f} of the largest"
    if theirs == ours:
        return True, "same result"
    return False, f"llama.cpp {str(theirs)[:100]!r}, libinfer {str(ours)[:100]!r}"


def links(setup):
    """A folder with the names that the addon asks for, all of them links to libinfer."""
    folder = setup.work / "node-links"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in NAMES:
        (folder / name).symlink_to((setup.compat / "libllama.so.0").resolve())
    return folder


def run(setup, package, library):
    model = setup.f32 if (setup.bin / "llama-quantize").exists() else setup.model
    result = setup.run(library, ["node", str(HERE / "scenarios.mjs"), str(package), str(model)], 1800, cwd=setup.work)
    (setup.work / f"{library.name}.log").write_text(result.stdout + result.stderr)
    return {line["name"]: line for line in map(json.loads, filter(lambda l: l.startswith("{"), result.stdout.splitlines()))}
