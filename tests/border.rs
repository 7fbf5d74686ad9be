//! The C border from C and C++: tests/border.c and border.cpp, compiled against the headers and run with libinfer.so.
//! Needs `smollm2.gguf` in `$INFER_TEST_DATA` (default `target/test-data`), which `make test-data` fetches.

use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn null_and_nonsense_are_refused() {
    run(&program("border.c"), &["null"]);
}

#[test]
fn errors_are_told_as_documented() {
    run(&program("border.c"), &["model", &model()]);
}

#[test]
fn cpp_names_answer_as_cpp_functions() {
    run(&program("border.cpp"), &[&model()]);
}

fn model() -> String {
    let data = std::env::var_os("INFER_TEST_DATA").map_or_else(|| PathBuf::from("target/test-data"), PathBuf::from);
    let path = data.join("smollm2.gguf");
    assert!(path.exists(), "run `make test-data` to fetch {}", path.display());
    path.to_str().unwrap().to_owned()
}

/// The folder of the library that this test was built with.
fn library_dir() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().to_path_buf()
}

fn program(source: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{source}.{}.out", std::process::id()));
    let _ = std::fs::remove_file(&out);
    let (compiler, standard) = if source.ends_with(".c") { ("cc", "-std=c11") } else { ("c++", "-std=c++17") };
    let status = Command::new(compiler)
        .args([standard, "-Wall", "-Wextra", "-Werror", "-g", "-pthread"])
        .arg(root.join("tests").join(source))
        .arg(format!("-I{}", root.join("include").display()))
        .arg(library_dir().join("libinfer.so"))
        .arg("-o")
        .arg(&out)
        .status()
        .unwrap_or_else(|e| panic!("cannot run {compiler}: {e}"));
    assert!(status.success(), "{source} does not compile");
    // The program looks for the library by its SONAME.
    let soname = library_dir().join("libinfer.so.0");
    if !soname.exists() {
        let _ = std::os::unix::fs::symlink("libinfer.so", soname);
    }
    out
}

fn run(program: &Path, args: &[&str]) {
    let output = Command::new(program).args(args).env("LD_LIBRARY_PATH", library_dir()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&text));
}
