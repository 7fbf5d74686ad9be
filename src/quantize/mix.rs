//! Which type each tensor of a file gets: the rules by which llama.cpp's mixes give some tensors more bits than the file
//! type's own, by their role, their layer, and the shape of the model. Asked by the driver tensor by tensor, in order, as
//! some rules count.

use super::QuantizeParams;
use super::ftype::FileType;
use super::names::{Role, layer_of, quantizable};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo};
use crate::quant::DType;
use FileType as F;
use fancy_regex::Regex;

/// What the rules ask about the model.
#[derive(Debug)]
struct Shape {
    arch: String,
    n_layer: usize,
    /// Query heads to each KV head.
    n_gqa: u32,
    n_expert: u32,
    /// 70B models share KV heads among so many queries that attn_v is small and worth more bits.
    is_70b: bool,
}

impl Shape {
    fn read(meta: &Gguf) -> Result<Shape> {
        let arch: String = meta.require("general.architecture")?;
        let key = |name: &str| format!("{arch}.{name}");
        let number = |name: &str| Ok::<u32, Error>(meta.find(&key(name))?.unwrap_or(0));
        let n_layer = number("block_count")? as usize;
        let n_layer_base = n_layer.saturating_sub(number("nextn_predict_layers")? as usize);
        let first = |name: &str| -> Result<Option<u32>> {
            Ok(match meta.find_array(&key(name)) {
                Ok(Some(_)) => meta.find_vec::<u32>(&key(name))?.and_then(|v| v.first().copied()),
                Ok(None) | Err(_) => meta.find(&key(name))?,
            })
        };
        let n_head = first("attention.head_count")?.unwrap_or(0);
        let n_head_kv = first("attention.head_count_kv")?.unwrap_or(n_head);
        let mut n_expert = number("expert_count")?;
        if matches!(&arch[..], "hunyuan-dense" | "hunyuan_vl") && n_expert <= 1 {
            n_expert = 0;
        }
        let is_70b = match &arch[..] {
            "llama" | "llama-embed" => n_layer_base == 80 && n_head != n_head_kv && n_expert != 8,
            "qwen2" | "deci" | "olmo" => n_layer_base == 80,
            "jais2" => n_layer_base == 68,
            _ => false,
        };
        Ok(Shape { arch, n_layer, n_gqa: n_head.checked_div(n_head_kv).unwrap_or(0), n_expert, is_70b })
    }
}

/// See the module.
pub(super) struct Mix<'a> {
    params: &'a QuantizeParams<'a>,
    shape: Shape,
    overrides: Vec<(Regex, DType)>,
    /// The output is the embedding table.
    tied: bool,
    n_attn_v: usize,
    // How many of a role were asked about.
    i_attn_v: usize,
    i_ffn_down: usize,
    i_ffn_gate: usize,
    i_ffn_up: usize,
    /// How many tensors got another type because their rows are no multiple of the type's blocks.
    pub(super) n_fallback: usize,
}

impl<'a> Mix<'a> {
    /// For a file with these metadata and names of tensors.
    pub(super) fn new<'n>(
        params: &'a QuantizeParams<'a>,
        meta: &Gguf,
        names: impl Iterator<Item = &'n str> + Clone,
    ) -> Result<Mix<'a>> {
        let compile = |(pattern, dtype): &(String, DType)| {
            let regex = Regex::new(pattern).map_err(|e| {
                Error::argument(format!("tensor type override '{pattern}' is no regular expression: {e}"))
            })?;
            Ok((regex, *dtype))
        };
        Ok(Mix {
            params,
            shape: Shape::read(meta)?,
            overrides: params.tensor_types.iter().map(compile).collect::<Result<_>>()?,
            tied: !names.clone().any(|name| Role::of(name) == Role::Output),
            n_attn_v: names.filter(|name| Role::of(name) == Role::AttnV).count(),
            i_attn_v: 0,
            i_ffn_down: 0,
            i_ffn_gate: 0,
            i_ffn_up: 0,
            n_fallback: 0,
        })
    }

    /// The type for a tensor; its own if it stays as it is.
    pub(super) fn target(&mut self, tensor: &TensorInfo) -> Result<DType> {
        if !self.quantizable(tensor) {
            return Ok(tensor.dtype);
        }
        let role = Role::of(&tensor.name);
        let per_layer = tensor.name == "per_layer_token_embd.weight";
        if let (Role::TokenEmbd, Some(dtype)) = (role, self.params.token_embedding_type)
            && !(per_layer && self.overridden(&tensor.name)?.is_some())
        {
            return Ok(dtype);
        }
        if let (Role::Output, Some(dtype)) = (role, self.params.output_tensor_type) {
            return Ok(dtype);
        }
        let default = self.params.ftype.dtype();
        if !default.is_quantized() {
            return Ok(default);
        }
        let dtype = match self.overridden(&tensor.name)? {
            Some(dtype) => {
                if dtype != default {
                    log::warn!("{}: {dtype} instead of {default}, as asked", tensor.name);
                }
                dtype
            }
            None if self.params.pure => default,
            None => self.choose(default, tensor, role)?,
        };
        self.fallback(dtype, tensor)
    }

    /// Whether a tensor rounded to `target` is garbage without an importance matrix.
    pub(super) fn requires_importance(&self, tensor: &TensorInfo, target: DType) -> bool {
        let few_bits = [DType::IQ3XXS, DType::IQ2XXS, DType::IQ2XS, DType::IQ2S, DType::IQ1M, DType::IQ1S];
        self.quantizable(tensor)
            && !matches!(Role::of(&tensor.name), Role::TokenEmbd | Role::Output)
            && (few_bits.contains(&target) || target == DType::Q2K && self.params.ftype == F::Q2_K_S)
    }

    fn quantizable(&self, tensor: &TensorInfo) -> bool {
        !self.params.only_copy && quantizable(self.params.quantize_output_tensor, &self.shape.arch, tensor)
    }

    fn overridden(&self, name: &str) -> Result<Option<DType>> {
        for (pattern, dtype) in &self.overrides {
            let found = pattern.is_match(name);
            if found.map_err(|e| Error::argument(format!("tensor type override '{}': {e}", pattern.as_str())))? {
                return Ok(Some(*dtype));
            }
        }
        Ok(None)
    }

    fn choose(&mut self, default: DType, tensor: &TensorInfo, role: Role) -> Result<DType> {
        let ftype = self.params.ftype;
        let name = &tensor.name;
        if self.shape.arch == "glm5-next"
            && ["attn_q_a", "attn_q_b", "nextn.eh_proj"].iter().any(|part| name.contains(part))
            && default.is_quantized()
        {
            return Ok(DType::Q8_0);
        }
        if role == Role::Output || self.tied && role == Role::TokenEmbd {
            return Ok(self.output(default, tensor));
        }
        if ftype == F::MXFP4_MOE {
            let is_expert = matches!(role, Role::FfnUp | Role::FfnGate | Role::FfnDown);
            let experts = tensor.ne[2] > 1 && (self.shape.arch != "bailingmoe3" || is_expert);
            return Ok(if experts { DType::MXFP4 } else { DType::Q8_0 });
        }
        if role == Role::TokenEmbd {
            return Ok(token_embd(ftype).unwrap_or(default));
        }
        if matches!(ftype, F::IQ1_S | F::IQ1_M | F::IQ2_XXS | F::IQ2_XS | F::IQ2_S | F::IQ2_M) {
            return Ok(self.of_few_bits(role).unwrap_or(default));
        }
        let chosen = match role {
            Role::AttnV => self.attn_v(default),
            Role::AttnK | Role::AttnQ => self.attn_qk(role),
            Role::AttnOutput => self.attn_output(),
            Role::FfnDown => self.ffn_down(name)?,
            Role::FfnGate | Role::FfnUp => self.ffn_gate_up(name, role)?,
            Role::TokenEmbd | Role::Output | Role::Other => None,
        };
        Ok(chosen.unwrap_or(default))
    }

    fn output(&self, default: DType, tensor: &TensorInfo) -> DType {
        if let Some(dtype) = self.params.output_tensor_type {
            return dtype;
        }
        let ftype = self.params.ftype;
        let whole = tensor.ne[0].is_multiple_of(default.block_size() as u64);
        if ftype == F::MXFP4_MOE || self.shape.arch == "falcon" || !whole || default == DType::Q8_0 {
            DType::Q8_0
        } else if matches!(ftype, F::IQ1_S | F::IQ1_M | F::IQ2_XXS | F::IQ2_XS | F::IQ2_S | F::IQ2_M | F::IQ3_XXS) {
            DType::Q5K
        } else {
            DType::Q6K
        }
    }

    /// The mixes of 1 and 2 bits.
    fn of_few_bits(&mut self, role: Role) -> Option<DType> {
        let ftype = self.params.ftype;
        let wide = matches!(ftype, F::IQ2_S | F::IQ2_M);
        let more = if wide { DType::IQ3S } else { DType::Q2K };
        match role {
            Role::AttnV => {
                self.i_attn_v += 1;
                let shared = self.shape.n_gqa >= 4 || self.shape.n_expert >= 4;
                Some(if shared { DType::Q4K } else { more })
            }
            Role::AttnK if self.shape.n_expert == 8 => Some(DType::Q4K),
            Role::FfnDown => {
                let early = self.i_ffn_down < self.shape.n_layer / 8;
                self.i_ffn_down += 1;
                early.then_some(more)
            }
            Role::AttnOutput if self.shape.n_expert == 8 => Some(DType::Q5K),
            Role::AttnOutput if matches!(ftype, F::IQ1_S | F::IQ1_M) => Some(DType::IQ2XXS),
            Role::AttnOutput if wide => Some(DType::IQ3S),
            Role::AttnOutput
            | Role::AttnK
            | Role::AttnQ
            | Role::FfnGate
            | Role::FfnUp
            | Role::TokenEmbd
            | Role::Output
            | Role::Other => None,
        }
    }

    fn attn_v(&mut self, default: DType) -> Option<DType> {
        let (ftype, i) = (self.params.ftype, self.i_attn_v);
        self.i_attn_v += 1;
        let shared = self.shape.n_gqa >= 4;
        let mut dtype = match ftype {
            F::Q2_K => Some(if shared { DType::Q4K } else { DType::Q3K }),
            F::IQ3_XXS if shared => Some(DType::Q4K),
            F::IQ3_XXS if !self.has_imatrix() => Some(DType::IQ3S),
            F::Q2_K_S | F::IQ3_XS | F::IQ3_S if shared => Some(DType::Q4K),
            F::IQ3_M => Some(DType::Q4K),
            F::Q3_K_M => Some(if i < 2 { DType::Q5K } else { DType::Q4K }),
            F::Q3_K_L => Some(DType::Q5K),
            F::IQ4_NL | F::IQ4_XS if shared => Some(DType::Q5K),
            F::Q4_K_M | F::Q5_K_M if more_bits(i, self.n_attn_v) => Some(DType::Q6K),
            F::Q4_K_S if i < 4 => Some(DType::Q5K),
            _ => None,
        };
        if self.shape.is_70b && matches!(dtype.unwrap_or(default), DType::Q3K | DType::Q4K) {
            dtype = Some(DType::Q5K);
        }
        // With 8 experts attention is so small a part that the best costs nothing.
        if self.shape.n_expert == 8 { Some(DType::Q8_0) } else { dtype }
    }

    fn attn_qk(&self, role: Role) -> Option<DType> {
        match self.params.ftype {
            _ if role == Role::AttnK && self.shape.n_expert == 8 => Some(DType::Q8_0),
            F::IQ3_XS => Some(DType::IQ3XXS),
            F::IQ3_XXS => Some(DType::IQ2S),
            _ => None,
        }
    }

    fn attn_output(&self) -> Option<DType> {
        let ftype = self.params.ftype;
        if self.shape.arch == "falcon" {
            return (ftype == F::Q3_K_L).then_some(DType::Q4K);
        }
        if self.shape.n_expert == 8 {
            let better = matches!(
                ftype,
                F::Q2_K
                    | F::IQ3_XS
                    | F::IQ3_XXS
                    | F::Q3_K_S
                    | F::Q3_K_M
                    | F::IQ4_NL
                    | F::Q4_K_S
                    | F::Q4_K_M
                    | F::IQ3_S
                    | F::IQ3_M
                    | F::IQ4_XS
            );
            return better.then_some(DType::Q5K);
        }
        match ftype {
            F::Q2_K => Some(DType::Q3K),
            F::IQ3_XXS => Some(DType::IQ3S),
            F::Q3_K_M | F::IQ3_M => Some(DType::Q4K),
            F::Q3_K_L => Some(DType::Q5K),
            _ => None,
        }
    }

    fn ffn_down(&mut self, name: &str) -> Result<Option<DType>> {
        let (i, n) = (self.layer(self.i_ffn_down, name)?, self.shape.n_layer);
        self.i_ffn_down += 1;
        let falcon = self.shape.arch == "falcon";
        let (early, more) = (i < n / 8, more_bits(i, n));
        Ok(match self.params.ftype {
            F::Q2_K => Some(DType::Q3K),
            F::Q2_K_S if early => Some(DType::Q4K),
            F::IQ3_XXS if !self.has_imatrix() => Some(if early { DType::Q4K } else { DType::Q3K }),
            F::Q3_K_M if i < n / 16 => Some(DType::Q5K),
            F::Q3_K_M if !falcon || more => Some(DType::Q4K),
            F::Q3_K_M => Some(DType::Q3K),
            F::IQ3_M if early || self.shape.n_expert == 8 && more => Some(DType::Q4K),
            F::Q3_K_L => Some(if falcon { DType::Q4K } else { DType::Q5K }),
            F::Q4_K_M if falcon && i < n / 16 => Some(DType::Q6K),
            F::Q4_K_M if falcon => Some(if more { DType::Q5K } else { DType::Q4K }),
            F::Q4_K_M | F::Q5_K_M if more => Some(DType::Q6K),
            F::IQ4_NL | F::IQ4_XS if early && !self.has_imatrix() => Some(DType::Q5K),
            F::Q4_K_S if early && !falcon => Some(DType::Q5K),
            // The first layers of some models go astray with a symmetric type, even under an imatrix.
            F::Q4_0 if early && self.has_imatrix() => Some(DType::Q4_1),
            F::Q5_0 if early && self.has_imatrix() => Some(DType::Q5_1),
            _ => None,
        })
    }

    fn ffn_gate_up(&mut self, name: &str, role: Role) -> Result<Option<DType>> {
        let count = if role == Role::FfnGate { &mut self.i_ffn_gate } else { &mut self.i_ffn_up };
        let i = *count;
        *count += 1;
        let (i, n) = (self.layer(i, name)?, self.shape.n_layer);
        let middle = i >= n / 8 && i < 7 * n / 8;
        Ok((self.params.ftype == F::IQ3_XS && middle).then_some(DType::IQ3XXS))
    }

    /// The layer of the `i`-th tensor of a role. Those of experts may come in any order, so that their names tell.
    fn layer(&self, i: usize, name: &str) -> Result<usize> {
        if self.shape.n_expert <= 1 {
            return Ok(i);
        }
        let n = self.shape.n_layer;
        match layer_of(name) {
            Some(i) if i < n => Ok(i),
            Some(i) => Err(Error::tensor(name, format!("is of layer {i}, the model has {n}"))),
            None => Err(Error::tensor(name, "its name does not tell its layer")),
        }
    }

    fn has_imatrix(&self) -> bool {
        self.params.imatrix.is_some()
    }

    /// `dtype`, or one with smaller blocks where a row is no multiple of its.
    fn fallback(&mut self, dtype: DType, tensor: &TensorInfo) -> Result<DType> {
        let fits = |dtype: DType| tensor.ne[0].is_multiple_of(dtype.block_size() as u64);
        if fits(dtype) {
            return Ok(dtype);
        }
        self.n_fallback += 1;
        let smaller = match dtype {
            DType::IQ1S
            | DType::IQ1M
            | DType::IQ2XXS
            | DType::IQ2XS
            | DType::IQ2S
            | DType::IQ3XXS
            | DType::IQ3S
            | DType::IQ4XS => DType::IQ4NL,
            DType::Q2_0 | DType::Q2K | DType::Q3K | DType::TQ1_0 | DType::TQ2_0 => DType::Q4_0,
            DType::Q4K => DType::Q5_0,
            DType::Q5K => DType::Q5_1,
            DType::Q6K => DType::Q8_0,
            other if other.block_size() <= 32 => other,
            other => {
                let reason =
                    format!("rows of {} are no whole blocks of {other}, which has no substitute", tensor.ne[0]);
                return Err(Error::tensor(&tensor.name, reason));
            }
        };
        let dtype_found = if fits(smaller) { smaller } else { DType::F16 };
        log::warn!("{}: {dtype_found}, as rows of {} are no whole blocks of {dtype}", tensor.name, tensor.ne[0]);
        Ok(dtype_found)
    }
}

/// The first and the last eighth of the layers and every third between.
fn more_bits(i: usize, n: usize) -> bool {
    i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
}

/// The embedding table, where it is not the output too.
fn token_embd(ftype: FileType) -> Option<DType> {
    match ftype {
        F::IQ1_S | F::IQ1_M | F::IQ2_XXS | F::IQ2_XS => Some(DType::Q2K),
        F::IQ2_S | F::IQ2_M | F::IQ3_XXS => Some(DType::IQ3S),
        F::TQ1_0 | F::TQ2_0 | F::Q2_0 => Some(DType::Q4K),
        _ => None,
    }
}
