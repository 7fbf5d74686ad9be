//! Models without a file: a caller gives metadata and fills the tensors. `llama_model_init_from_user`.

use super::loader::Loader;
use super::{Model, ModelParams, arch, read_hparams};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, GgufFiles, TensorInfo};
use crate::vocab::Vocab;
use std::sync::Arc;
use std::time::Instant;

/// Writes the elements of a tensor into memory of its size, which is zeroed.
pub type Fill<'a> = &'a mut dyn FnMut(&TensorInfo, &mut [u8]) -> Result<()>;

impl Model {
    /// Makes a model from metadata. The tensors are those that its architecture needs and those that it may have, of the
    /// types that `meta` gives to tensors of these names, else f32; `fill` writes each once.
    pub fn from_user(mut meta: Gguf, mut params: ModelParams, fill: Fill) -> Result<Arc<Model>> {
        let start = Instant::now();
        if let Some(progress) = &mut params.progress
            && !progress(0.0)
        {
            return Err(Error::Aborted);
        }
        for (key, value) in &params.kv_overrides {
            meta.set_override(key, value.clone());
        }
        let header = GgufFiles::from_header(meta);
        if params.vocab_only {
            return Model::from_files(header, params, start);
        }
        let tensors = plan(&header)?;
        let mut made = Gguf::new();
        for (key, value) in header.meta().kv() {
            made.set(key.as_str(), value.clone())?;
        }
        for info in tensors {
            made.add_tensor(info)?;
        }
        Model::from_files(GgufFiles::filled(made, fill)?, params, start)
    }
}

/// The tensors of a model with this header.
fn plan(header: &GgufFiles) -> Result<Vec<TensorInfo>> {
    let name: String = header.meta().require("general.architecture")?;
    let def = arch::find(&name).ok_or_else(|| Error::Unsupported(format!("model architecture '{name}'")))?;
    let vocab = Vocab::load(header.meta())?;
    let (hp, _) = read_hparams(header.meta(), &vocab, def)?;
    let mut loader = Loader::planning(header, &hp, def.name);
    (def.load)(&mut loader)?;
    Ok(loader.into_plan())
}

/// Whether a model of an architecture has a tensor that files may leave out, when there is no file to tell: as llama.cpp
/// has it, nearly all, but never the fused form of what can be apart.
pub(super) fn has_optional(arch: &str, name: &str) -> bool {
    const ALL: &[&str] = &[
        "output.weight",
        "attn_q.bias",
        "attn_k.bias",
        "attn_v.bias",
        "attn_q.scale",
        "attn_k.scale",
        "attn_v.scale",
        "attn_output.scale",
        "ffn_gate.scale",
        "ffn_up.scale",
        "ffn_down.scale",
        "ffn_gate_exps.scale",
        "ffn_up_exps.scale",
        "ffn_down_exps.scale",
    ];
    const LLAMA: &[&str] = &[
        "attn_output.bias",
        "ffn_gate.bias",
        "ffn_up.bias",
        "ffn_down.bias",
        "ffn_gate_exps.weight",
        "rope_freqs.weight",
        "rope_factors_long.weight",
        "rope_factors_short.weight",
    ];
    const BERT: &[&str] = &[
        "token_types.weight",
        "token_embd_norm.bias",
        "attn_output.bias",
        "attn_output_norm.bias",
        "ffn_up.bias",
        "ffn_down.bias",
        "layer_output_norm.bias",
        "cls.weight",
        "cls.bias",
        "cls.output.weight",
        "cls.output.bias",
    ];
    let own: &[&str] = match arch {
        "llama" | "llama-embed" => LLAMA,
        "bert" => BERT,
        "qwen2" => &["output.bias"],
        "qwen3" => &["attn_q_norm.weight", "attn_k_norm.weight", "cls.output.weight"],
        "gemma3" => &["attn_q_norm.weight", "attn_k_norm.weight"],
        _ => &[],
    };
    // Frequency factors are the same for all layers.
    let base = match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((_, base)) if base.starts_with("rope_") => return false,
        Some((_, base)) => base,
        None => name,
    };
    ALL.contains(&base) || own.contains(&base)
}
