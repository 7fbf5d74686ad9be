//! C and C++ programs that are compiled against the headers and run with libinfer.so.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the library that this test was built with.
fn library_dir() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().to_path_buf()
}

/// Compiles a file of tests/.
pub fn program(source: &str) -> PathBuf {
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

/// Runs a program, which must succeed.
pub fn run(program: &Path, args: &[&str]) {
    let output = Command::new(program).args(args).env("LD_LIBRARY_PATH", library_dir()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&text));
}
