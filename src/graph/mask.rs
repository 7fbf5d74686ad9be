//! Which KV rows each query token may attend to. Filled by `memory`, read by the attention kernels of every backend.

/// Visibility of KV rows for the tokens of one ubatch and one group of layers (full attention or sliding window).
///
/// A row index counts cells over all streams of a cache: `stream * kv_size + cell`. For models without a cache the rows
/// are the tokens of the ubatch. Buffers are reused from ubatch to ubatch.
#[derive(Debug, Default, Clone)]
pub struct Mask {
    /// One entry per query token.
    pub rows: Vec<MaskRow>,
    /// Bitmaps of the rows that are not dense.
    pub words: Vec<u64>,
    /// Position of each KV row, indexed like the rows; filled only for models that bias by distance (ALiBi).
    pub kv_pos: Vec<i32>,
    /// Position of each query token; filled with `kv_pos`.
    pub q_pos: Vec<i32>,
}

/// What one query token sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskRow {
    /// First KV row of the range.
    pub start: u32,
    /// One past the last KV row.
    pub end: u32,
    /// Offset into [`Mask::words`] of a bitmap whose bit 0 stands for row `start & !63`; `None`: the whole range is visible.
    pub bits: Option<u32>,
}

impl Mask {
    /// Forgets everything, keeps the buffers.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.words.clear();
        self.kv_pos.clear();
        self.q_pos.clear();
    }

    /// Whether query token `t` sees KV row `row`.
    pub fn visible(&self, t: usize, row: u32) -> bool {
        let r = &self.rows[t];
        if row < r.start || row >= r.end {
            return false;
        }
        match r.bits {
            None => true,
            Some(base) => {
                let i = (row - (r.start & !63)) as usize;
                self.words[base as usize + i / 64] >> (i % 64) & 1 == 1
            }
        }
    }
}
