//! Chat templates against llama.cpp's output, of which tests/data/chat.txt holds hashes: every format by name, and what is
//! made of the template files in llama.cpp's models folder (`make test-data` fetches them).

use std::path::{Path, PathBuf};

use infer::chat::{Message, apply_template, builtin_templates};

/// Roles and contents; between them they meet every rule of every format.
const CONVERSATIONS: [&[(&str, &str)]; 6] = [
    &[],
    &[("user", "Hi")],
    &[("system", "Be brief.\n"), ("user", " What is 2+2? "), ("assistant", "\t4.\n"), ("user", "Why?")],
    &[
        ("user", "{role} <b>"),
        ("assistant", " yes "),
        ("system", " late rule "),
        ("user", ""),
        ("tool", "{\"x\": 1}"),
        ("assistant_tool_call", "f()"),
        ("function", "3"),
    ],
    &[
        ("system", " a "),
        ("system", " b "),
        ("model", "m"),
        ("user", "u"),
        ("x", "other"),
        ("user", "two"),
        ("user", "three "),
    ],
    &[("assistant", "first"), ("System", "caps"), ("user", "ü\u{2581} \u{B}")],
];

fn test_data(name: &str) -> PathBuf {
    let folder = std::env::var_os("INFER_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-data"), PathBuf::from);
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: run `make test-data`", path.display());
    path
}

fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619))
}

fn messages<'a>(conversation: &[(&'a str, &'a str)]) -> Vec<Message<'a>> {
    let message =
        |&(role, content): &(&'a str, &'a str)| Message { role: role.as_bytes(), content: content.as_bytes() };
    conversation.iter().map(message).collect()
}

fn hashes(template: &[u8]) -> String {
    let mut hashes = Vec::new();
    for conversation in CONVERSATIONS {
        for add_assistant in [false, true] {
            match apply_template(Some(template), &messages(conversation), add_assistant) {
                Ok(text) => hashes.push(format!("{:08x}", fnv(&text))),
                Err(_) => return "unknown".to_string(),
            }
        }
    }
    hashes.join(" ")
}

fn golden() -> impl Iterator<Item = (&'static str, &'static str)> {
    include_str!("data/chat.txt").lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '))
}

#[test]
fn every_named_format() {
    let named: Vec<_> = golden().filter(|(name, _)| !name.ends_with(".jinja")).collect();
    for (name, want) in &named {
        assert_eq!(hashes(name.as_bytes()), *want, "{name}");
    }
    let names: Vec<_> = builtin_templates().map(|name| name.to_str().unwrap()).collect();
    assert_eq!(names, named.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}

#[test]
fn formats_of_template_files() {
    let folder = test_data("llama.cpp/models/templates");
    let mut n_files = 0;
    for (name, want) in golden().filter(|(name, _)| name.ends_with(".jinja")) {
        assert_eq!(hashes(&std::fs::read(folder.join(name)).unwrap()), want, "{name}");
        n_files += 1;
    }
    assert!(n_files > 20, "{n_files} files");
}

#[test]
fn a_format_that_nothing_points_to_is_an_error() {
    assert!(apply_template(Some(b"no such format"), &[], true).is_err());
    assert!(apply_template(Some(b"dots1"), &[], true).is_err(), "has no name");
    let default = apply_template(None, &messages(CONVERSATIONS[1]), true).unwrap();
    assert_eq!(default, b"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}
