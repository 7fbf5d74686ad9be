//! What the names of tensors tell: their role and layer, whether they are worth quantizing, their order in a file, and their
//! names once layers were taken out.

use crate::error::{Error, Result};
use crate::gguf::TensorInfo;
use std::collections::BTreeMap;

/// What a tensor is for, as far as the mixes care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    TokenEmbd,
    AttnQ,
    AttnK,
    /// Values, or a matrix that makes values among others.
    AttnV,
    AttnOutput,
    FfnUp,
    FfnGate,
    FfnDown,
    Output,
    Other,
}

impl Role {
    pub(super) fn of(name: &str) -> Role {
        const PARTS: [(&str, Role); 9] = [
            ("attn_qkv.weight", Role::AttnV),
            ("attn_kv_b.weight", Role::AttnV),
            ("attn_v.weight", Role::AttnV),
            ("attn_k.weight", Role::AttnK),
            ("attn_q.weight", Role::AttnQ),
            ("attn_output.weight", Role::AttnOutput),
            ("ffn_up", Role::FfnUp),
            ("ffn_gate", Role::FfnGate),
            ("ffn_down", Role::FfnDown),
        ];
        match name {
            "output.weight" => Role::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Role::TokenEmbd,
            _ => PARTS.iter().find(|(part, _)| name.contains(part)).map_or(Role::Other, |&(_, role)| role),
        }
    }
}

/// The layer of a tensor whose name starts with `blk.N.`.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    let rest = name.strip_prefix("blk.")?;
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
}

/// Names that contain one of these stay as they are: they are small, or harmed by rounding, or not multiplied with.
const KEPT: [&str; 35] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// The same for glm5-next.
const KEPT_GLM5_NEXT: [&str; 14] = [
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
];

/// Whether a tensor's type may change at all.
pub(super) fn quantizable(output_too: bool, arch: &str, tensor: &TensorInfo) -> bool {
    let name = &tensor.name[..];
    let has = |part: &&str| name.contains(part);
    tensor.n_dims >= 2
        && name.ends_with("weight")
        && (output_too || name != "output.weight")
        && !matches!(name, "position_embd.weight" | "token_types.weight")
        && !KEPT.iter().any(has)
        && !(arch == "glm5-next" && KEPT_GLM5_NEXT.iter().any(has))
}

/// Tensors of a file stand in the order of their layers, those of none first, then of their names.
pub(super) fn by_layer(a: &str, b: &str) -> std::cmp::Ordering {
    (layer_of(a), a).cmp(&(layer_of(b), b))
}

/// New numbers for the layers that stay when others are taken out.
#[derive(Debug, Default)]
pub(super) struct Pruning {
    removed: Vec<usize>,
    /// The new number of every layer met, `None` if it goes.
    numbers: BTreeMap<usize, Option<usize>>,
    next: usize,
}

impl Pruning {
    pub(super) fn new(removed: &[usize]) -> Pruning {
        Pruning { removed: removed.to_vec(), ..Pruning::default() }
    }

    /// The name a tensor gets; `None` if it goes. Tensors are asked about in the order of their layers.
    pub(super) fn rename(&mut self, name: &str) -> Option<String> {
        let Some((range, layer)) = self.number_in(name) else { return Some(name.to_owned()) };
        let (removed, next) = (&self.removed, &mut self.next);
        let number = self.numbers.entry(layer).or_insert_with(|| {
            if removed.contains(&layer) {
                return None;
            }
            let number = if layer < removed[0] { layer } else { *next };
            *next = number + 1;
            Some(number)
        });
        number.map(|number| format!("{}{number}{}", &name[..range.start], &name[range.end..]))
    }

    /// The name that a tensor had, by which imatrices know it.
    pub(super) fn old_name(&self, name: &str) -> Result<String> {
        let Some((range, layer)) = self.number_in(name) else { return Ok(name.to_owned()) };
        let old = self.numbers.iter().find(|(_, number)| **number == Some(layer));
        let (old, _) = old.ok_or_else(|| Error::tensor(name, "is of a layer that the file did not have"))?;
        Ok(format!("{}{old}{}", &name[..range.start], &name[range.end..]))
    }

    /// How many layers stay; `None` if all do.
    pub(super) fn n_layer(&self) -> Option<usize> {
        (!self.removed.is_empty()).then_some(self.next)
    }

    /// Where in a name the number of its layer stands. Anywhere behind `blk.`, before a dot.
    fn number_in(&self, name: &str) -> Option<(std::ops::Range<usize>, usize)> {
        if self.removed.is_empty() {
            return None;
        }
        name.match_indices("blk.").find_map(|(at, blk)| {
            let start = at + blk.len();
            let len = name[start..].find(|c: char| !c.is_ascii_digit())?;
            let layer = name[start..start + len].parse().ok()?;
            name[start + len..].starts_with('.').then_some((start..start + len, layer))
        })
    }
}
