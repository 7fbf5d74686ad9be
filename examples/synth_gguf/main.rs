//! Writes a GGUF file with random weights, of any shape and file type, in seconds: for measuring speed and memory without
//! fetching gigabytes. Types of tensors follow the rules by which `llama_model_quantize` mixes them. The file has no
//! vocabulary, only its size; it loads in libinfer and in llama.cpp.
//!
//! ```text
//! cargo run --release --example synth_gguf -- 8b Q4_K_M target/8b.gguf
//! cargo run --release --example synth_gguf -- 1b Q8_0 small.gguf --layers 4 --vocab 32000
//! ```

#[cfg(test)]
#[path = "../common/llama_cpp.rs"]
#[allow(dead_code)] // other examples use more of it
mod llama_cpp;
mod model;

use model::{FILE_TYPES, PRESETS, Shape, file_type};
use std::path::PathBuf;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn help() -> String {
    let mut text = String::from("usage: synth_gguf PRESET TYPE FILE [OPTION N]...\n\npresets:\n");
    PRESETS.iter().for_each(|(name, what)| text += &format!("  {name:12} {what}\n"));
    text += "\ntypes: ";
    text += &FILE_TYPES.map(|(name, _)| name).join(" ");
    text += "\n       (MXFP4: all matrices of the layers, the output Q8_0)\n\noptions, each in place of the preset's: --layers \
             --embd --ff --heads --kv-heads --head-dim --vocab --ctx,\nand --tied or --untied\n";
    text
}

struct Options {
    shape: Shape,
    ftype: infer::quantize::FileType,
    path: PathBuf,
}

fn parse(args: impl IntoIterator<Item = String>) -> Result<Options> {
    let mut args = args.into_iter();
    let mut next = |what: &str| args.next().ok_or_else(|| format!("{what} is missing\n\n{}", help()));
    let preset = next("a preset")?;
    let mut shape = Shape::preset(&preset).ok_or_else(|| format!("no preset {preset}\n\n{}", help()))?;
    let ftype = next("a type")?;
    let ftype = file_type(&ftype).ok_or_else(|| format!("no type {ftype}\n\n{}", help()))?;
    let path = PathBuf::from(next("a file")?);
    while let Ok(option) = next("") {
        let field = match option.as_str() {
            "--layers" => &mut shape.n_layer,
            "--embd" => &mut shape.n_embd,
            "--ff" => &mut shape.n_ff,
            "--heads" => &mut shape.n_head,
            "--kv-heads" => &mut shape.n_head_kv,
            "--head-dim" => &mut shape.head_dim,
            "--vocab" => &mut shape.n_vocab,
            "--ctx" => &mut shape.n_ctx_train,
            "--tied" | "--untied" => {
                shape.tied = option == "--tied";
                continue;
            }
            _ => return Err(format!("no option {option}\n\n{}", help()).into()),
        };
        *field = next("a number")?.parse().map_err(|e| format!("{option}: {e}"))?;
    }
    Ok(Options { shape, ftype, path })
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{}", help());
        return Ok(());
    }
    let o = parse(args)?;
    let start = Instant::now();
    let size = model::write(&o.shape, o.ftype, &o.path)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{}: {:.2} GB in {seconds:.1} s", o.path.display(), size as f64 / 1e9);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use infer::context::{Batch, Context, ContextParams};
    use infer::gguf::Source;
    use infer::model::{Model, ModelParams};
    use std::path::Path;

    /// Both engines round activations to 8 bits, each in its way; a wrong graph or type gives about 1.
    const NMSE: f64 = 5e-3;

    fn nmse(a: &[f32], b: &[f32]) -> f64 {
        let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
            a.iter().zip(b).map(|(&a, &b)| f(f64::from(a), f64::from(b))).sum()
        };
        sum(&|a, b| (a - b) * (a - b)) / sum(&|_, b| b * b)
    }

    #[test]
    fn files_give_the_same_logits_in_llama_cpp() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let data = std::env::var_os("INFER_TEST_DATA").map_or_else(|| root.join("target/test-data"), PathBuf::from);
        let reference = llama_cpp::LlamaCpp::open(&data.join("reference")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let small = "--layers 2 --vocab 1000 --ctx 256".split(' ').map(String::from);
        for (preset, more) in [("smollm2", ""), ("gemma3-270m", ""), ("1b", "--ff 1024"), ("8b", "--embd 512 --ff 768")]
        {
            for (ftype, _) in FILE_TYPES {
                let path = folder.path().join("model.gguf");
                let path_text = path.to_str().unwrap().to_string();
                let args = [preset.to_string(), ftype.to_string(), path_text].into_iter();
                let more = more.split(' ').filter(|s| !s.is_empty()).map(String::from);
                let o = parse(args.chain(small.clone()).chain(more)).unwrap();
                model::write(&o.shape, o.ftype, &o.path).unwrap();
                let tokens: Vec<i32> = (0..24).map(|i| i * 37 % 1000).collect();

                let model = Model::load(Source::Path(path.clone()), ModelParams::default()).unwrap();
                let params = ContextParams { n_ctx: 64, n_threads: 1, n_threads_batch: 1, ..Default::default() };
                let mut ours = Context::new(model, &params).unwrap();
                let mut theirs = reference.session(&path, 64, 1).unwrap();
                for tokens in [&tokens[..], &[5]] {
                    ours.decode(&Batch::new(tokens.len(), Some(tokens), None, 0).unwrap()).unwrap();
                    theirs.decode(tokens, false).unwrap();
                    let error = nmse(ours.logits_ith(-1).unwrap(), theirs.logits(-1));
                    assert!(error < NMSE, "{preset} {ftype}, {} tokens: {error:.2e}", tokens.len());
                }
            }
        }
    }

    #[test]
    fn mixes_are_those_of_quantizing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let shape = Shape { n_layer: 8, n_vocab: 512, n_ff: 512, n_embd: 256, ..Shape::preset("8b").unwrap() };
        model::write(&shape, file_type("f32").unwrap(), &path).unwrap();
        let (to, ftype) = (folder.path().join("b.gguf"), file_type("Q4_K_M").unwrap());
        infer::quantize::quantize(&path, &to, &infer::quantize::QuantizeParams::new(ftype)).unwrap();
        model::write(&shape, ftype, &path).unwrap();
        let types = |path: &Path| {
            let gguf = infer::gguf::Gguf::from_bytes(&std::fs::read(path).unwrap()).unwrap();
            let mut list: Vec<_> = gguf.tensors().iter().map(|t| (t.name.clone(), t.dtype)).collect();
            list.sort();
            list
        };
        assert_eq!(types(&path), types(&to));
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for args in
            ["", "9b Q8_0 x", "1b Q9 x", "1b Q8_0", "1b Q8_0 x --layers", "1b Q8_0 x --layers x", "1b Q8_0 x --x 1"]
        {
            assert!(parse(args.split_whitespace().map(String::from)).is_err(), "{args}");
        }
    }
}
