"""Sources of llama.cpp's examples, compiled with libinfer's installed headers and package in place of llama.cpp's, and run.
`batched` and `embedding` also use llama.cpp's helper library: its headers and libllama-common.so come from the reference build."""

import os
import subprocess

import programs


def scenarios(setup, wanted):
    """Each example: (name, passed, note)."""
    source = setup.data / "llama.cpp-source"
    if not source.exists():
        yield "sources", False, "missing: tests/fetch.py llama.cpp-source"
        return
    prefix = setup.compat.parents[2]
    folder = setup.work / "sources"
    folder.mkdir(exist_ok=True)
    examples = {
        "simple": (compile_alone, ["-m", str(setup.model), "-n", "16", programs.PROMPT], "Paris"),
        "simple-chat": (compile_alone, ["-m", str(setup.model), "-c", "128"], ""),
        "batched": (compile_with_common, ["-m", str(setup.model), "-p", programs.PROMPT, "-n", "16", "-np", "2", "-kvu", "--temp",
                                          "0", "-t", "2"], "Paris"),
        "embedding": (compile_with_common, ["-m", str(setup.model), "-p", programs.PROMPT, "--pooling", "mean", "-t", "2"], "embedding 0"),
        "simple-cmake-pkg": (compile_with_cmake, ["-m", str(setup.model), "-n", "16", programs.PROMPT], "Paris"),
    }
    for name, (build, args, expected) in examples.items():
        if wanted not in name:
            continue
        program, problem = build(setup, source, prefix, folder, name)
        if problem:
            yield name, False, problem
            continue
        stdin = "What is the capital of France?\n\n" if name == "simple-chat" else ""
        library = f"{prefix / 'lib'}{os.pathsep}{setup.compat}{os.pathsep}{setup.bin}"
        result = setup.run(library, [str(program), *args], 300, stdin)
        said = result.code == 0 and expected in result.stdout
        yield name, said, "compiles, runs" if said else f"ends with {result.code}: {(result.stderr or result.stdout)[-200:]}"


def build(command):
    """What the compiler says first when it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    errors = [line for line in (done.stderr + done.stdout).splitlines() if "error" in line.lower()]
    return (errors or ["fails"])[0][:300]


def compile_alone(setup, source, prefix, folder, name):
    program = folder / name
    return program, build(["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", source / "examples" / name / f"{name}.cpp", "-o", program,
                           "-I", prefix / "include", "-L", prefix / "lib", "-linfer"])


def compile_with_common(setup, source, prefix, folder, name):
    program = folder / name
    return program, build(["g++", "-std=c++17", "-O1", source / "examples" / name / f"{name}.cpp", "-o", program,
                           "-I", prefix / "include", "-I", source / "common", "-I", source / "vendor",
                           "-L", prefix / "lib", "-L", setup.bin, "-linfer", "-lllama-common", f"-Wl,-rpath-link,{setup.compat}"])


def compile_with_cmake(setup, source, prefix, folder, name):
    tree = folder / "cmake"
    problem = build(["cmake", "-S", source / "examples" / name, "-B", tree, f"-DCMAKE_PREFIX_PATH={prefix}"]) or build(
        ["cmake", "--build", tree])
    return tree / f"llama-{name}", problem
