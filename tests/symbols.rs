//! What libinfer.so exports: exactly the list in tests/abi/symbols.txt, of which every name is one of the interface or
//! begins with infer_ (more.txt: what llama.cpp's libmtmd and the headers of its helper library use beyond the others;
//! caller_graphs.txt: what of that fails here).
//! `UPDATE_SYMBOLS=1 cargo test --test symbols` writes the list.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn exports_are_the_committed_list() {
    let exported = exported();
    let path = root().join("tests/abi/symbols.txt");
    if std::env::var_os("UPDATE_SYMBOLS").is_some() {
        std::fs::write(&path, exported.iter().map(|name| format!("{name}\n")).collect::<String>()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let committed: BTreeSet<String> = committed.lines().map(String::from).collect();
    let missing: Vec<_> = committed.difference(&exported).collect();
    let surplus: Vec<_> = exported.difference(&committed).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "not exported: {missing:?}; not in the list: {surplus:?}");
}

#[test]
fn exports_are_part_of_the_interface() {
    let mut known = BTreeSet::new();
    for file in ["llama.txt", "ggml.txt", "llama_ext.txt", "node_ext.txt", "more.txt", "caller_graphs.txt"] {
        for line in std::fs::read_to_string(root().join("tests/abi").join(file)).unwrap().lines() {
            let name = line.strip_prefix("fn ").unwrap_or(line);
            known.insert(name.split(['(', ' ']).next().unwrap().to_string());
        }
    }
    let unknown: Vec<_> =
        exported().into_iter().filter(|name| !known.contains(name) && !name.starts_with("infer_")).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The library that this test was built with.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    // `cargo build` may have left an older one beside that which `cargo test` made.
    let built = [profile.join("libinfer.so"), profile.join("deps/libinfer.so")];
    let found =
        built.into_iter().filter(|path| path.exists()).max_by_key(|path| path.metadata().unwrap().modified().unwrap());
    found.unwrap_or_else(|| panic!("no libinfer.so in {}", profile.display()))
}

fn exported() -> BTreeSet<String> {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(library()).output().expect("nm of binutils");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().nth(2)).map(String::from).collect()
}
