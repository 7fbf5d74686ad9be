//! What the context hands to a graph for one ubatch. Made by `context`, read by the backends.

use super::{Mask, MaskId};

/// A leaf that the context fills before each run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Input {
    /// Token ids, i32 `[n_tokens]`.
    Tokens,
    /// Embeddings given by the caller, f32 `[n_embd, n_tokens]`.
    Embd,
    /// Positions, i32 `[n_tokens]`.
    Positions,
    /// Indices of the tokens whose outputs are wanted, i32 `[n_outputs]`.
    OutIds,
    /// For each token the KV row it is stored in, i32 `[n_tokens]`, for the group of layers of this number.
    KvRows(u8),
    /// For each KV row of a group how far its position moves, i32 `[rows]`.
    KvShift(u8),
    /// All KV rows of a group in order, i32 `[rows]`.
    KvAllRows(u8),
    /// Mean-pooling weights, f32 `[n_tokens, n_seqs]`.
    PoolMean,
    /// For each sequence the token whose output stands for it, i32 `[n_seqs]`.
    PoolRows,
    /// What another device computed, f32, by its number among what this piece of a plan reads: see `graph::cut`.
    Cut(u32),
}

impl Input {
    /// llama.cpp's name of it, or ours where it has none.
    pub fn name(self) -> &'static str {
        match self {
            Input::Tokens => "inp_tokens",
            Input::Embd => "inp_embd",
            Input::Positions => "inp_pos",
            Input::OutIds => "out_ids",
            Input::KvRows(_) => "attn_inp_k_idxs",
            Input::KvShift(_) => "K_shift",
            Input::KvAllRows(_) => "K_rows",
            Input::PoolMean => "mean",
            Input::PoolRows => "cls",
            Input::Cut(_) => "cut",
        }
    }
}

/// The data behind every [`Input`] of one ubatch. Buffers are reused.
#[derive(Debug, Default, Clone)]
pub struct Inputs {
    /// See [`Input::Tokens`].
    pub tokens: Vec<i32>,
    /// See [`Input::Embd`].
    pub embd: Vec<f32>,
    /// See [`Input::Positions`].
    pub positions: Vec<i32>,
    /// See [`Input::OutIds`].
    pub out_ids: Vec<i32>,
    /// See [`Input::KvRows`]; one entry per group.
    pub kv_rows: Vec<Vec<i32>>,
    /// See [`Input::KvShift`].
    pub kv_shift: Vec<Vec<i32>>,
    /// See [`Input::KvAllRows`].
    pub kv_all_rows: Vec<Vec<i32>>,
    /// See [`Input::PoolMean`].
    pub pool_mean: Vec<f32>,
    /// See [`Input::PoolRows`].
    pub pool_rows: Vec<i32>,
    /// See [`Input::Cut`].
    pub cuts: Vec<Vec<f32>>,
    /// Visible KV rows, one mask per group of layers.
    pub masks: Vec<Mask>,
}

/// Borrowed input data.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub enum InputData<'a> {
    I32(&'a [i32]),
    F32(&'a [f32]),
}

impl Inputs {
    /// The data of a leaf; empty when the group does not exist.
    pub fn get(&self, input: Input) -> InputData<'_> {
        fn of(v: &[Vec<i32>], i: u8) -> &[i32] {
            v.get(i as usize).map_or(&[], |x| x)
        }
        match input {
            Input::Tokens => InputData::I32(&self.tokens),
            Input::Embd => InputData::F32(&self.embd),
            Input::Positions => InputData::I32(&self.positions),
            Input::OutIds => InputData::I32(&self.out_ids),
            Input::KvRows(g) => InputData::I32(of(&self.kv_rows, g)),
            Input::KvShift(g) => InputData::I32(of(&self.kv_shift, g)),
            Input::KvAllRows(g) => InputData::I32(of(&self.kv_all_rows, g)),
            Input::PoolMean => InputData::F32(&self.pool_mean),
            Input::PoolRows => InputData::I32(&self.pool_rows),
            Input::Cut(i) => InputData::F32(self.cuts.get(i as usize).map_or(&[], |x| x)),
        }
    }

    /// The mask of a group.
    pub fn mask(&self, id: MaskId) -> Option<&Mask> {
        self.masks.get(id.0 as usize)
    }
}
