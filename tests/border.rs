//! The C border from C and C++: tests/border.c and border.cpp, compiled against the headers and run with libinfer.so.
//! Needs `smollm2.gguf` in `$INFER_TEST_DATA` (default `target/test-data`), which `make test-data` fetches.

mod common;

use common::c_program::{program, run};
use common::test_data;

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
    let path = test_data().join("smollm2.gguf");
    assert!(path.exists(), "run `make test-data` to fetch {}", path.display());
    path.to_str().unwrap().to_owned()
}
