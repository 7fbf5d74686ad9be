//! The shared library exports the public API and nothing else: exactly the names in tests/abi/exports.txt, all of which
//! are llama.cpp's, with llama.cpp's spelling, or start with `infer_`.
//!
//! `UPDATE_EXPORTS=1 cargo test --test symbols` writes the list anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The library that cargo built along with this test: it lies one folder above the test's own.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    test.ancestors().nth(2).expect("cargo puts tests into deps/").join("libinfer.so")
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn exported() -> BTreeSet<String> {
    let library = library();
    let output = Command::new("nm").args(["--dynamic", "--defined-only"]).arg(&library).output().expect("nm of binutils");
    assert!(output.status.success(), "nm {}: {}", library.display(), String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("symbols are ASCII");
    text.lines().filter_map(|line| line.split_whitespace().last()).map(String::from).collect()
}

/// Names of the facts files: `fn NAME(...)` in C, `NAME = declaration` for C++ names.
fn known() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in ["llama", "ggml", "llama_ext", "node_ext"] {
        let path = repository(&format!("tests/abi/{file}.txt"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for line in text.lines() {
            if let Some(function) = line.strip_prefix("fn ") {
                names.extend(function.split('(').next().map(String::from));
            } else if line.starts_with("_Z") {
                names.extend(line.split(' ').next().map(String::from));
            }
        }
    }
    names
}

#[test]
fn exports_are_the_committed_list() {
    let exported = exported();
    let list = repository("tests/abi/exports.txt");
    if std::env::var_os("UPDATE_EXPORTS").is_some() {
        let text: String = exported.iter().flat_map(|name| [name.as_str(), "\n"]).collect();
        std::fs::write(&list, text).unwrap();
    }
    let committed: BTreeSet<String> =
        std::fs::read_to_string(&list).unwrap().lines().map(String::from).collect();
    let new: Vec<_> = exported.difference(&committed).collect();
    let gone: Vec<_> = committed.difference(&exported).collect();
    assert!(new.is_empty() && gone.is_empty(), "not in the list: {new:?}; no longer exported: {gone:?}");
}

#[test]
fn exports_are_of_the_public_api() {
    let known = known();
    let foreign: Vec<_> =
        exported().into_iter().filter(|name| !known.contains(name) && !name.starts_with("infer_")).collect();
    assert!(foreign.is_empty(), "exported but in no public header: {foreign:?}");
}

#[test]
fn soname_has_the_major_version() {
    let output = Command::new("readelf").arg("--dynamic").arg(library()).output().expect("readelf of binutils");
    let text = String::from_utf8_lossy(&output.stdout);
    let soname = format!("[libinfer.so.{}]", env!("CARGO_PKG_VERSION_MAJOR"));
    assert!(text.lines().any(|line| line.contains("SONAME") && line.contains(&soname)), "no SONAME {soname}:\n{text}");
}
