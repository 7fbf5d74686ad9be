//! What is added to a model at run time: low-rank adapters (LoRA) and control vectors. Files are read here; `context` keeps
//! which ones are in use, and [`Build`](super::build::Build) adds them to the graph where the weights that they change are
//! used. Without any, graphs are what they always are.

use super::loader::rows;
use super::{Model, metadata};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, GgufFiles, LoadMode, LoadOptions, Source, ValueType};
use crate::quant::DType;
use crate::tensor::{Weight, WeightRef};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};

/// The table of embeddings, whose rows are picked instead of multiplied.
const EMBEDDINGS: &str = "token_embd.weight";

/// A LoRA adapter of one model: pairs of thin matrices, each added as `B · A` to a weight. Immutable; contexts share it.
pub struct Lora {
    model: Weak<Model>,
    pairs: HashMap<String, Pair>, // by the weight's name
    alpha: f32,                   // 0: scales are not divided by the rank
    meta: Vec<(String, Vec<u8>)>,
    invocation_tokens: Vec<i32>,
}

/// `[n_in, rank]` and `[rank, n_out]`, with the experts behind; for the embedding table `[rank, n_vocab]` and
/// `[rank, n_embd]`.
struct Pair {
    a: WeightRef,
    b: WeightRef,
}

/// What an adapter adds to a product: `scale * b · (a · x)`.
pub(super) struct Delta {
    pub a: WeightRef,
    pub b: WeightRef,
    pub scale: f32,
}

impl Lora {
    /// Reads an adapter's file, all of it: it is not needed afterwards.
    ///
    /// # Errors
    /// [`Error::Format`] when it is no LoRA adapter, or of another architecture; [`Error::Tensor`] when a tensor fits no
    /// weight of the model.
    pub fn load(model: &Arc<Model>, source: Source) -> Result<Lora> {
        let options = LoadOptions { mode: LoadMode::None, ..LoadOptions::default() };
        let files = GgufFiles::open(source, options)?;
        let gguf = files.meta();
        require_text(gguf, "general.type", "adapter")?;
        require_text(gguf, "general.architecture", model.def()?.name)?;
        require_text(gguf, "adapter.type", "lora")?;
        let invocation_tokens = invocation_tokens(gguf)?;
        let alpha = gguf.find("adapter.lora.alpha")?.unwrap_or(0.0);
        let weights = model.weights().iter().map(|w| (&w.name[..], w)).collect();
        let pairs = pairs(&files, &weights)?;
        log::info!("adapter: {} pairs of tensors, alpha {alpha}", pairs.len());
        Ok(Lora { model: Arc::downgrade(model), pairs, alpha, meta: metadata(&files), invocation_tokens })
    }

    /// Scalars and strings of the file's metadata as text, in the order of the file.
    pub fn meta(&self) -> &[(String, Vec<u8>)] {
        &self.meta
    }

    /// One of them.
    pub fn meta_value(&self, key: &str) -> Option<&[u8]> {
        self.meta.iter().find(|(k, _)| k == key).map(|(_, value)| &value[..])
    }

    /// Tokens of the prompt from which on an "activated" adapter is to be used; empty for others.
    pub fn invocation_tokens(&self) -> &[i32] {
        &self.invocation_tokens
    }

    fn scale(&self, pair: &Pair, scale: f32) -> f32 {
        if self.alpha == 0.0 { scale } else { scale * self.alpha / pair.b.ne[0] as f32 }
    }

    /// What it adds to products with a weight, or with some rows of one.
    fn delta(&self, w: &Weight, scale: f32) -> Result<Option<Delta>> {
        let (name, from) = w.part_of.as_ref().map_or((&w.name, 0), |(name, from)| (name, *from));
        let Some(pair) = self.pairs.get(name).filter(|_| name != EMBEDDINGS) else { return Ok(None) };
        let b = if w.part_of.is_some() { rows(&pair.b, from, w.ne[1])? } else { pair.b.clone() };
        Ok(Some(Delta { a: pair.a.clone(), b, scale: self.scale(pair, scale) }))
    }
}

fn require_text(gguf: &Gguf, key: &str, expected: &str) -> Result<()> {
    let found = gguf.find_string(key)?.unwrap_or_default();
    if found == expected.as_bytes() {
        return Ok(());
    }
    let found = String::from_utf8_lossy(found);
    Err(Error::format(format!("{key} is '{found}', not '{expected}'")))
}

fn invocation_tokens(gguf: &Gguf) -> Result<Vec<i32>> {
    const KEY: &str = "adapter.alora.invocation_tokens";
    match gguf.find_array(KEY)? {
        None => Ok(Vec::new()),
        Some(array) if array.element_type() == ValueType::U32 => {
            let tokens: Vec<u32> = array.to_vec().unwrap_or_default();
            Ok(tokens.into_iter().map(|token| token as i32).collect())
        }
        Some(array) => {
            let found = array.element_type().name();
            Err(Error::format(format!("{KEY} has elements of type {found}, not {}", ValueType::U32.name())))
        }
    }
}

fn pairs(files: &GgufFiles, weights: &HashMap<&str, &WeightRef>) -> Result<HashMap<String, Pair>> {
    let mut halves: HashMap<&str, [Option<WeightRef>; 2]> = HashMap::new();
    for info in files.tensors() {
        let (name, half) = match (info.name.strip_suffix(".lora_a"), info.name.strip_suffix(".lora_b")) {
            (Some(name), _) => (name, 0),
            (_, Some(name)) => (name, 1),
            // Changed norms come along in some files; leaving them out is what llama.cpp does.
            _ if info.name.ends_with("_norm.weight") => continue,
            _ => return Err(Error::tensor(&info.name, "is neither .lora_a nor .lora_b")),
        };
        if !info.dtype.is_quantized() && !matches!(info.dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::tensor(&info.name, format!("has type {}", info.dtype)));
        }
        let data = files.tensor(&info.name)?.into_bytes();
        let ne = info.ne.map(|n| n as usize);
        let weight = Weight { name: info.name.clone(), dtype: info.dtype, ne, data, part_of: None };
        halves.entry(name).or_default()[half] = Some(Arc::new(weight));
    }
    let mut pairs = HashMap::with_capacity(halves.len());
    for (name, halves) in halves {
        let [Some(a), Some(b)] = halves else {
            return Err(Error::tensor(name, "one half of its pair is missing"));
        };
        let w = weights.get(name).ok_or_else(|| Error::tensor(name, "is not in the model, but in the adapter"))?;
        let (want_a, want_b) = if name == EMBEDDINGS {
            let rank = b.ne[0];
            ([rank, w.ne[1], 1, 1], [rank, w.ne[0], 1, 1])
        } else {
            let rank = a.ne[1];
            ([w.ne[0], rank, w.ne[2], w.ne[3]], [rank, w.ne[1], w.ne[2], w.ne[3]])
        };
        for (half, want) in [(&a, want_a), (&b, want_b)] {
            if half.ne != want {
                return Err(Error::tensor(&half.name, format!("expected shape {want:?}, found {:?}", half.ne)));
            }
        }
        pairs.insert(name.to_string(), Pair { a, b });
    }
    Ok(pairs)
}

/// The adapters of a context.
#[derive(Default)]
pub struct Adapters {
    loras: Vec<(Arc<Lora>, f32)>,    // each once, scales not 0
    control: Vec<Option<WeightRef>>, // by layer, [n_embd]
}

impl Adapters {
    /// Uses these adapters from now on, each with its scale. Those of scale 0 are left out, and of one that is there twice the
    /// first counts. Returns whether anything changed.
    ///
    /// # Errors
    /// [`Error::Argument`] for an adapter of another model, or a scale that is no number. Nothing has changed then.
    pub fn set_loras(&mut self, model: &Arc<Model>, loras: &[(Arc<Lora>, f32)]) -> Result<bool> {
        let mut new: Vec<(Arc<Lora>, f32)> = Vec::with_capacity(loras.len());
        for (i, (lora, scale)) in loras.iter().enumerate() {
            if !Weak::ptr_eq(&lora.model, &Arc::downgrade(model)) {
                return Err(Error::argument(format!("adapter {i} was loaded for another model")));
            }
            if !scale.is_finite() {
                return Err(Error::argument(format!("the scale of adapter {i} is {scale}")));
            }
            if *scale != 0.0 && !new.iter().any(|(other, _)| Arc::ptr_eq(other, lora)) {
                new.push((lora.clone(), *scale));
            }
        }
        let changed = new.len() != self.loras.len()
            || new.iter().zip(&self.loras).any(|(x, y)| !Arc::ptr_eq(&x.0, &y.0) || x.1 != y.1);
        self.loras = new;
        Ok(changed)
    }

    /// Adds a vector to what leaves each of the layers: `data` has `n_embd` values for layer 1, then for layer 2 and so on.
    /// Layer 0 has none, nor have layers that the data does not reach.
    pub fn set_control(&mut self, n_embd: usize, n_layer: usize, data: &[f32], layers: RangeInclusive<i32>) {
        self.control = (0..n_layer)
            .map(|il| {
                let values = data.chunks_exact(n_embd).nth(il.checked_sub(1)?)?;
                let wanted = layers.contains(&i32::try_from(il).ok()?);
                let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                let name = format!("control.{il}");
                let (dtype, ne) = (DType::F32, [n_embd, 1, 1, 1]);
                wanted.then(|| Arc::new(Weight { name, dtype, ne, data: bytes.into(), part_of: None }))
            })
            .collect();
    }

    /// Adds nothing to what leaves layers. Returns whether that is new.
    pub fn clear_control(&mut self) -> bool {
        !std::mem::take(&mut self.control).is_empty()
    }

    /// What is added to what leaves a layer.
    pub(super) fn control(&self, il: usize) -> Option<&WeightRef> {
        self.control.get(il)?.as_ref()
    }

    /// What is added to products with a weight.
    pub(super) fn deltas(&self, w: &Weight) -> Result<Vec<Delta>> {
        let deltas = self.loras.iter().map(|(lora, scale)| lora.delta(w, *scale));
        deltas.filter_map(Result::transpose).collect()
    }

    /// What is added to rows of the embedding table: `scale * b · a[token]`.
    pub(super) fn embedding_deltas(&self) -> impl Iterator<Item = Delta> {
        self.loras.iter().filter_map(|(lora, scale)| {
            let pair = lora.pairs.get(EMBEDDINGS)?;
            Some(Delta { a: pair.a.clone(), b: pair.b.clone(), scale: lora.scale(pair, *scale) })
        })
    }
}
