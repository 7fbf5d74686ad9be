//! The headers in include/ are what cbindgen makes of src/capi, and compile as C11 and C++17 without a warning.
//! `UPDATE_HEADERS=1 cargo test --test headers` writes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use cbindgen::{Builder, Config, RenameRule};

/// A generated header.
struct Header {
    name: &'static str,
    /// Files below src/capi whose public items it declares, in this order.
    sources: &'static [&'static str],
    /// The word before every function.
    api: &'static str,
    /// Types that no function mentions but callers need.
    extra: &'static [&'static str],
}

const HEADERS: [Header; 7] = [
    Header {
        name: "ggml.h",
        sources: &["types/ggml.rs", "types/opaque.rs", "threadpool.rs", "ggml.rs", "ops.rs", "tensor.rs", "graph.rs"],
        api: "GGML_API",
        extra: &[
            "ggml_tensor",
            "ggml_tensor_flag",
            "ggml_unary_op",
            "ggml_glu_op",
            "ggml_log_level",
            "ggml_log_callback",
            "ggml_abort_callback",
            "ggml_threadpool_t",
            "ggml_cgraph",
        ],
    },
    Header {
        name: "ggml-backend.h",
        sources: &["types/backend.rs", "device.rs"],
        api: "GGML_API",
        extra: &["ggml_backend_buffer_t", "ggml_backend_t", "ggml_backend_feature", "ggml_backend_sched_eval_callback"],
    },
    Header { name: "ggml-cpu.h", sources: &["types/cpu.rs"], api: "GGML_API", extra: &["ggml_numa_strategy"] },
    Header {
        name: "ggml-opt.h",
        sources: &["types/opt.rs", "opt.rs"],
        api: "GGML_API",
        extra: &["ggml_opt_get_optimizer_params", "ggml_opt_epoch_callback"],
    },
    Header { name: "gguf.h", sources: &["types/gguf.rs", "gguf.rs", "gguf_set.rs"], api: "GGML_API", extra: &[] },
    Header {
        name: "llama.h",
        sources: &[
            "types/llama.rs",
            "types/train.rs",
            "types/quantize.rs",
            "misc.rs",
            "logging.rs",
            "names.rs",
            "model.rs",
            "model_info.rs",
            "model_make.rs",
            "quantize.rs",
            "vocab.rs",
            "context.rs",
            "adapter.rs",
            "memory.rs",
            "state.rs",
            "batch.rs",
            "batch_ext.rs",
            "outputs.rs",
            "chat.rs",
            "sampler.rs",
            "sampler_chain.rs",
            "sampler_init.rs",
            "sampler_vocab.rs",
            "sample.rs",
            "sampled.rs",
            "train.rs",
            "deprecated.rs",
        ],
        api: "LLAMA_API",
        extra: &["llama_sampler_data"],
    },
    Header { name: "infer.h", sources: &["infer.rs"], api: "LLAMA_API", extra: &[] },
];

#[test]
fn headers_are_up_to_date() {
    let update = std::env::var_os("UPDATE_HEADERS").is_some();
    let kinds = kinds_of_types();
    for header in &HEADERS {
        let path = root().join("include").join(header.name);
        let text = generate(header, &kinds);
        if update {
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "include/{} is stale: UPDATE_HEADERS=1 cargo test --test headers", header.name);
    }
}

#[test]
fn headers_compile_as_c11_and_cpp17() {
    for entry in std::fs::read_dir(root().join("include")).unwrap() {
        let header = entry.unwrap().path();
        let cpp_only = header.ends_with("llama-cpp.h");
        for (compiler, standard) in [("cc", "-std=c11"), ("c++", "-std=c++17")] {
            if compiler == "cc" && cpp_only {
                continue;
            }
            let language = if compiler == "cc" { "c" } else { "c++" };
            let output = Command::new(compiler)
                .args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", "-x", language])
                .arg("-include")
                .arg(&header)
                .arg("/dev/null")
                .output()
                .unwrap_or_else(|e| panic!("cannot run {compiler}: {e}"));
            let messages = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{} as {standard}:\n{messages}", header.display());
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source(file: &str) -> PathBuf {
    root().join("src/capi").join(file)
}

/// Every public type of the border by name: its header, and how C spells it.
fn kinds_of_types() -> BTreeMap<String, (&'static str, &'static str)> {
    let mut kinds = BTreeMap::new();
    for header in &HEADERS {
        for file in header.sources {
            let text = std::fs::read_to_string(source(file)).unwrap_or_else(|e| panic!("src/capi/{file}: {e}"));
            for line in text.lines() {
                for (rust, c) in [("pub struct ", "struct"), ("pub enum ", "enum"), ("pub union ", "union")] {
                    let Some(rest) = line.strip_prefix(rust) else { continue };
                    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                    kinds.insert(rest[..end].to_string(), (header.name, c));
                }
            }
        }
    }
    kinds
}

fn generate(header: &Header, kinds: &BTreeMap<String, (&'static str, &'static str)>) -> String {
    let mut config = Config::from_root_or_default(root());
    let preamble = std::fs::read_to_string(source("headers").join(header.name)).unwrap();
    config.header = Some(format!(
        "// Part of libinfer. Generated by cbindgen from src/capi; edits are overwritten.\n\n#pragma once\n\n{preamble}"
    ));
    config.function.prefix = Some(header.api.into());
    config.function.rename_args = RenameRule::None;
    config.export.include = header.extra.iter().map(|name| name.to_string()).collect();
    // A type of another header or of the preamble is not known to cbindgen as what it is; `enum E` is what CEnum<E>
    // becomes below.
    for (name, (home, kind)) in kinds {
        let known = *home == header.name && !preamble.contains(&format!("{kind} {name} {{"));
        if !known && *kind != "enum" {
            config.export.rename.insert(name.clone(), format!("{kind} {name}"));
        }
    }
    let mut builder = Builder::new().with_config(config);
    for file in header.sources {
        builder = builder.with_src(source(file));
    }
    let bindings = builder.generate().unwrap_or_else(|e| panic!("{}: {e}", header.name));
    let mut text = Vec::new();
    bindings.write(&mut text);
    c_words(&String::from_utf8(text).unwrap())
}

/// Turns what is left of Rust into C: `CEnum<E>`, and the headings and links of doc comments.
fn c_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let line = if line.trim_start().starts_with("//") {
            line.replace("// # Safety", "// Safety:").replace("[`", "`").replace("`]", "`")
        } else {
            line.to_string()
        };
        out.push_str(line.trim_end());
        out.push('\n');
    }
    while let Some(at) = out.find("CEnum<") {
        let end = at + out[at..].find('>').expect("generic arguments are closed");
        let name = out[at + "CEnum<".len()..end].to_string();
        out.replace_range(at..=end, &format!("enum {name}"));
    }
    out
}
