//! What all measurements share: options, models, both engines behind one set of calls, and how often things are repeated.

use crate::Result;
use crate::limits::Limits;
use crate::llama_cpp::{LlamaCpp, LlamaModel, Session, SessionParams};
use crate::report::Entry;
use crate::stats::{Repeat, STEADY_CV, Summary, ratio};
use crate::synth::{Shape, file_type, write};
use infer::context::{BackendKind, Batch, Context, ContextParams};
use infer::gguf::Source;
use infer::memory::SeqIds;
use infer::model::{Model, ModelParams};
use infer::quant::DType;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See the module.
pub struct Lab {
    pub reference: LlamaCpp,
    pub limits: Limits,
    pub n_threads: usize,
    /// One or two short rounds of everything.
    pub quick: bool,
    /// Keep the models that were made.
    pub keep: bool,
    /// Where real models are.
    pub data: PathBuf,
    /// Where models are made.
    pub made: PathBuf,
    /// When the run began.
    pub start: Instant,
    /// When nothing new is begun any more.
    pub end: Option<Instant>,
}

/// A model file; removed when it is dropped, if it was made for the purpose.
pub struct ModelFile {
    pub path: PathBuf,
    remove: bool,
}

impl Drop for ModelFile {
    fn drop(&mut self) {
        if self.remove {
            // What cannot be removed now is overwritten by the next run.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Lab {
    /// Five rounds for a measurement, and more until it is steady while it has not taken `seconds`.
    pub fn rounds(&self, seconds: f64) -> Repeat {
        if self.quick {
            return Repeat { min: 1, max: 2, time: Duration::from_secs_f64(0.05 * seconds), cv: STEADY_CV };
        }
        Repeat { min: 5, max: 40, time: Duration::from_secs_f64(seconds), cv: STEADY_CV }
    }

    /// Says what comes next of something that takes long.
    #[cfg(feature = "gpu")]
    pub fn say(&self, what: &str) {
        eprintln!("{:5.0} s    {what}", self.start.elapsed().as_secs_f64());
    }

    /// How much of a long measurement there is time for.
    #[cfg(feature = "gpu")]
    pub fn spare(&self, wanted: Duration) -> Duration {
        let left = self.end.map_or(wanted, |end| end.saturating_duration_since(Instant::now()) / 2);
        if self.quick { Duration::from_secs(3) } else { wanted.min(left) }
    }

    /// SmolLM2-135M-Instruct, Q4_1.
    pub fn smollm2(&self) -> PathBuf {
        self.data.join("smollm2.gguf")
    }

    /// Gemma 3 270M, Q4_K_M.
    pub fn gemma3(&self) -> PathBuf {
        self.data.join("gemma3.gguf")
    }

    /// Makes a model of a preset's shape.
    pub fn make(&self, preset: &str, ftype: &str) -> Result<ModelFile> {
        let path = self.made.join(format!("{preset}-{}.gguf", ftype.to_lowercase()));
        let file = ModelFile { path, remove: !self.keep };
        if !file.path.exists() {
            std::fs::create_dir_all(&self.made)?;
            let shape = Shape::preset(preset).ok_or("no such preset")?;
            write(&shape, file_type(ftype).ok_or("no such type")?, &file.path)?;
        }
        Ok(file)
    }

    /// Ours with the lab's threads.
    pub fn ours(&self, path: &Path, n_ctx: usize) -> Result<Ours> {
        Ours::new(&load(path)?, &self.params(n_ctx))
    }

    /// Parameters of a context of ours, f16 cache.
    pub fn params(&self, n_ctx: usize) -> ContextParams {
        ContextParams {
            n_ctx: n_ctx as u32,
            n_batch: n_ctx as u32,
            n_threads: self.n_threads,
            n_threads_batch: self.n_threads,
            ..Default::default()
        }
    }

    /// Theirs with the lab's threads.
    pub fn theirs(&self, path: &Path, n_ctx: usize) -> Result<Session<'_>> {
        self.their_model(path)?.session(&SessionParams::new(n_ctx as u32, self.n_threads as i32))
    }

    /// Loads a model into llama.cpp.
    pub fn their_model(&self, path: &Path) -> Result<LlamaModel<'_>> {
        self.reference.load(path)
    }

    /// Runs this program as another process that measures its own memory; see `probe`.
    pub fn probe(&self, what: &str, path: &Path, numbers: &[usize]) -> Result<Value> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--probe").arg(what).arg(path).arg(self.n_threads.to_string());
        if what == "gpu-time" {
            command.env("INFER_GPU_PROFILE", "runs");
        }
        command.args(numbers.iter().map(ToString::to_string));
        let output = command.output()?;
        if !output.status.success() {
            return Err(format!("the probe {what} failed: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// Loads a model into libinfer, mapped.
pub fn load(path: &Path) -> Result<Arc<Model>> {
    Ok(Model::load(Source::Path(path.into()), ModelParams::default())?)
}

/// What both engines do.
pub trait Engine {
    /// Computes tokens that continue sequence 0, with logits of the last or of all.
    fn decode(&mut self, tokens: &[i32], all: bool) -> Result<()>;
    /// Computes one token for each of the sequences 0, 1, ... at one position.
    fn decode_seqs(&mut self, tokens: &[i32], pos: i32) -> Result<()>;
    /// Computes tokens of one sequence from a position on.
    fn decode_on(&mut self, seq: i32, tokens: &[i32], pos: usize) -> Result<()>;
    /// Removes what a sequence holds from a position on.
    fn truncate(&mut self, seq: i32, from: usize) -> Result<()>;
    /// Lets another sequence share what sequence 0 holds.
    fn share(&mut self, to: i32) -> Result<()>;
    /// Forgets all tokens.
    fn clear(&mut self) -> Result<()>;

    /// Computes tokens one by one.
    fn decode_singly(&mut self, tokens: &[i32]) -> Result<()> {
        tokens.chunks(1).try_for_each(|token| self.decode(token, false))
    }
}

/// libinfer.
pub struct Ours(pub Context);

impl Ours {
    /// A context of a model.
    pub fn new(model: &Arc<Model>, params: &ContextParams) -> Result<Ours> {
        Ok(Ours(Context::new(model.clone(), params)?))
    }

    /// With the plain backend.
    pub fn exact(model: &Arc<Model>, params: ContextParams) -> Result<Ours> {
        Ours::new(model, &ContextParams { backend: BackendKind::Reference, ..params })
    }
}

impl Engine for Ours {
    fn decode(&mut self, tokens: &[i32], all: bool) -> Result<()> {
        let batch = Batch::new(tokens.len(), Some(tokens), None, 0)?;
        if !all {
            return Ok(self.0.decode(&batch)?);
        }
        Ok(self.0.decode(&batch.with_logits(&vec![1; tokens.len()])?)?)
    }

    fn decode_seqs(&mut self, tokens: &[i32], pos: i32) -> Result<()> {
        let (pos, marks) = (vec![pos; tokens.len()], vec![1; tokens.len()]);
        let mut seqs = SeqIds::default();
        (0..tokens.len() as i32).for_each(|seq| seqs.push(&[seq]));
        let batch = Batch::new(tokens.len(), Some(tokens), None, 0)?;
        Ok(self.0.decode(&batch.with_pos(&pos)?.with_seq_ids(&seqs)?.with_logits(&marks)?)?)
    }

    fn decode_on(&mut self, seq: i32, tokens: &[i32], pos: usize) -> Result<()> {
        let pos: Vec<i32> = (0..tokens.len()).map(|i| (pos + i) as i32).collect();
        let mut seqs = SeqIds::default();
        tokens.iter().for_each(|_| seqs.push(&[seq]));
        Ok(self.0.decode(&Batch::new(tokens.len(), Some(tokens), None, 0)?.with_pos(&pos)?.with_seq_ids(&seqs)?)?)
    }

    fn truncate(&mut self, seq: i32, from: usize) -> Result<()> {
        let memory = self.0.memory_mut().ok_or("the model has no memory")?;
        if memory.seq_rm(seq, from as i32, -1)? { Ok(()) } else { Err("a part of a sequence is not removed".into()) }
    }

    fn share(&mut self, to: i32) -> Result<()> {
        let memory = self.0.memory_mut().ok_or("the model has no memory")?;
        Ok(memory.seq_cp(0, to, -1, -1)?)
    }

    fn clear(&mut self) -> Result<()> {
        Ok(self.0.clear_memory(false)?)
    }
}

impl Engine for Session<'_> {
    fn decode(&mut self, tokens: &[i32], all: bool) -> Result<()> {
        Session::decode(self, tokens, all)
    }

    fn decode_seqs(&mut self, tokens: &[i32], pos: i32) -> Result<()> {
        Session::decode_seqs(self, tokens, pos)
    }

    fn decode_on(&mut self, seq: i32, tokens: &[i32], pos: usize) -> Result<()> {
        Session::decode_on(self, seq, tokens, pos as i32)
    }

    fn truncate(&mut self, seq: i32, from: usize) -> Result<()> {
        Session::truncate(self, seq, from as i32);
        Ok(())
    }

    fn share(&mut self, to: i32) -> Result<()> {
        Session::share(self, to);
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        Session::clear(self);
        Ok(())
    }
}

/// `n` token ids below `n_vocab`, always the same.
pub fn tokens(n: usize, n_vocab: usize) -> Vec<i32> {
    let mut state = 1u64;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % n_vocab as u64) as i32
        })
        .collect()
}

/// Ours beside another, by times of equal work: the ratio is how many times faster ours is.
pub fn beside(entry: Entry, ours: &[f64], name: &str, other: &[f64], work: f64, unit: &str) -> Entry {
    let n = ours.len();
    let entry = entry
        .times(Summary::of(ours, work, unit), Some((name, Summary::of(other, work, unit))))
        .value(ratio(ours, other), "×");
    if n < 5 { entry.note(format!("rounds: {n}")) } else { entry }
}

/// A type by the number that llama.cpp has for it.
pub fn ggml_type(dtype: DType) -> i32 {
    dtype as i32
}
