//! One interface over our library and llama.cpp's, and ours behind it.

use infer::context::{BackendKind, Batch, Context, ContextParams};
use infer::gguf::Source;
use infer::memory::SeqIds;
use infer::model::{Model, ModelParams, Pooling, RopeScaling};
use infer::quant::DType;
use infer::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// Settings of a context, the same for both libraries.
#[derive(Debug, Clone)]
pub struct Setup {
    pub n_ctx: u32,
    pub n_batch: u32,
    pub n_ubatch: u32,
    pub n_seq_max: u32,
    pub kv_unified: bool,
    pub swa_full: bool,
    pub type_k: DType,
    pub type_v: DType,
    /// llama.cpp's side alone; ours has one attention. Off unless a cache needs it, for llama.cpp's own rounds more.
    pub flash: bool,
    pub embeddings: bool,
    pub pooling: Option<Pooling>,
    pub causal: Option<bool>,
    pub rope_scaling: Option<RopeScaling>,
    pub rope_freq_base: Option<f32>,
    pub rope_freq_scale: Option<f32>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            n_ctx: 256,
            n_batch: 256,
            n_ubatch: 256,
            n_seq_max: 1,
            kv_unified: false,
            swa_full: true,
            type_k: DType::F32,
            type_v: DType::F32,
            flash: false,
            embeddings: false,
            pooling: None,
            causal: None,
            rope_scaling: None,
            rope_freq_base: None,
            rope_freq_scale: None,
        }
    }
}

/// A token of a batch.
#[derive(Debug, Clone)]
pub struct Tok {
    pub id: i32,
    pub pos: i32,
    pub seqs: Vec<i32>,
    pub output: bool,
}

/// How a decode ended, as llama.h numbers it: 0 done, 1 no slot, 2 aborted, -1 invalid; everything else is -2.
pub type Status = i32;

/// What scenarios do with a context.
pub trait Engine {
    fn decode(&mut self, batch: &[Tok]) -> Status;
    /// Rows of `embd` instead of token ids.
    fn decode_embd(&mut self, batch: &[Tok], embd: &[f32]) -> Status;
    fn logits(&mut self, i: i32) -> Option<Vec<f32>>;
    fn embeddings(&mut self, i: i32) -> Option<Vec<f32>>;
    fn embeddings_seq(&mut self, seq: i32) -> Option<Vec<f32>>;
    /// Forgets everything; engines of models without a memory have nothing to forget.
    fn clear(&mut self);
    fn seq_rm(&mut self, seq: i32, p0: i32, p1: i32) -> bool;
    fn seq_cp(&mut self, src: i32, dst: i32, p0: i32, p1: i32);
    fn seq_keep(&mut self, seq: i32);
    fn seq_add(&mut self, seq: i32, p0: i32, p1: i32, delta: i32);
    fn seq_div(&mut self, seq: i32, p0: i32, p1: i32, d: i32);
    /// Smallest and largest position, -1 without any.
    fn positions(&mut self, seq: i32) -> [i32; 2];
    fn can_shift(&mut self) -> bool;
    fn set_causal(&mut self, causal: bool);
    fn set_embeddings(&mut self, embeddings: bool);
    /// From now on the computation stops when asked for the n-th time; `None`: never.
    fn abort_after(&mut self, n: Option<usize>);
}

/// Our library.
pub struct Ours(pub Context);

impl Ours {
    pub fn load(path: &Path) -> Arc<Model> {
        Model::load(Source::Path(path.into()), ModelParams::default())
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub fn try_new(model: &Arc<Model>, s: &Setup, backend: BackendKind) -> Result<Ours> {
        let params = ContextParams {
            n_ctx: s.n_ctx,
            n_batch: s.n_batch,
            n_ubatch: s.n_ubatch,
            n_seq_max: s.n_seq_max,
            n_threads: 1,
            n_threads_batch: 1,
            kv_unified: s.kv_unified,
            swa_full: s.swa_full,
            type_k: s.type_k,
            type_v: s.type_v,
            embeddings: s.embeddings,
            pooling: s.pooling,
            causal_attn: s.causal,
            rope_scaling: s.rope_scaling,
            rope_freq_base: s.rope_freq_base,
            rope_freq_scale: s.rope_freq_scale,
            backend,
            ..ContextParams::default()
        };
        Context::new(model.clone(), &params).map(Ours)
    }

    fn run(&mut self, batch: &[Tok], embd: Option<&[f32]>) -> Result<()> {
        let ids: Vec<i32> = batch.iter().map(|t| t.id).collect();
        let pos: Vec<i32> = batch.iter().map(|t| t.pos).collect();
        let logits: Vec<i8> = batch.iter().map(|t| i8::from(t.output)).collect();
        let mut seqs = SeqIds::default();
        batch.iter().for_each(|t| seqs.push(&t.seqs));
        let tokens = if embd.is_none() { Some(&ids[..]) } else { None };
        let n_embd = embd.map_or(0, |e| e.len() / batch.len().max(1));
        let batch =
            Batch::new(batch.len(), tokens, embd, n_embd)?.with_pos(&pos)?.with_seq_ids(&seqs)?.with_logits(&logits)?;
        self.0.decode(&batch)
    }
}

fn status(result: Result<()>) -> Status {
    match result {
        Ok(()) => 0,
        Err(Error::NoSlot { .. }) => 1,
        Err(Error::Aborted) => 2,
        Err(Error::Argument(_)) => -1,
        Err(e) => {
            eprintln!("decode: {e}");
            -2
        }
    }
}

impl Engine for Ours {
    fn decode(&mut self, batch: &[Tok]) -> Status {
        status(self.run(batch, None))
    }

    fn decode_embd(&mut self, batch: &[Tok], embd: &[f32]) -> Status {
        status(self.run(batch, Some(embd)))
    }

    fn logits(&mut self, i: i32) -> Option<Vec<f32>> {
        self.0.logits_ith(i).ok().map(|row| row.to_vec())
    }

    fn embeddings(&mut self, i: i32) -> Option<Vec<f32>> {
        self.0.embeddings_ith(i).ok().map(|row| row.to_vec())
    }

    fn embeddings_seq(&mut self, seq: i32) -> Option<Vec<f32>> {
        self.0.embeddings_seq(seq).ok().map(|row| row.to_vec())
    }

    fn clear(&mut self) {
        self.0.clear_memory(true).unwrap();
    }

    fn seq_rm(&mut self, seq: i32, p0: i32, p1: i32) -> bool {
        self.0.memory_mut().unwrap().seq_rm(seq, p0, p1).unwrap()
    }

    fn seq_cp(&mut self, src: i32, dst: i32, p0: i32, p1: i32) {
        self.0.memory_mut().unwrap().seq_cp(src, dst, p0, p1).unwrap();
    }

    fn seq_keep(&mut self, seq: i32) {
        self.0.memory_mut().unwrap().seq_keep(seq).unwrap();
    }

    fn seq_add(&mut self, seq: i32, p0: i32, p1: i32, delta: i32) {
        self.0.memory_mut().unwrap().seq_add(seq, p0, p1, delta).unwrap();
    }

    fn seq_div(&mut self, seq: i32, p0: i32, p1: i32, d: i32) {
        self.0.memory_mut().unwrap().seq_div(seq, p0, p1, d).unwrap();
    }

    fn positions(&mut self, seq: i32) -> [i32; 2] {
        let memory = self.0.memory().unwrap();
        [memory.pos_min(seq), memory.pos_max(seq)].map(|p| p.unwrap_or(-1))
    }

    fn can_shift(&mut self) -> bool {
        self.0.memory().unwrap().can_shift()
    }

    fn set_causal(&mut self, causal: bool) {
        self.0.set_causal_attn(causal);
    }

    fn set_embeddings(&mut self, embeddings: bool) {
        self.0.set_embeddings(embeddings);
    }

    fn abort_after(&mut self, n: Option<usize>) {
        let mut asked = 0;
        self.0.set_abort_callback(n.map(|n| -> infer::context::AbortCallback {
            Box::new(move || {
                asked += 1;
                asked >= n
            })
        }));
    }
}
