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

    /// Whether neighbouring tokens mostly see the same rows, judged by a few of them.
    pub fn is_shared(&self) -> bool {
        let n = self.rows.len();
        (0..n.saturating_sub(1)).step_by(n.div_ceil(4).max(1)).all(|t| {
            let words = |t: usize| self.rows[t].start / 64..self.rows[t].end.max(self.rows[t].start).div_ceil(64);
            let (a, b) = (words(t), words(t + 1));
            let (mut both, mut one) = (0, 0);
            for i in a.start.min(b.start)..a.end.max(b.end) {
                let (a, b) = (self.word(t, i), self.word(t + 1, i));
                both += (a & b).count_ones();
                one += (a | b).count_ones();
            }
            2 * both >= one
        })
    }

    /// Which of rows `64 * i ..` token `t` sees.
    fn word(&self, t: usize, i: u32) -> u64 {
        let r = &self.rows[t];
        let (from, to) = (r.start.max(64 * i), r.end.min(64 * i + 64));
        if from >= to {
            return 0;
        }
        let range = (u64::MAX >> (64 - (to - from))) << (from - 64 * i);
        range & r.bits.map_or(u64::MAX, |base| self.words[(base + i - r.start / 64) as usize])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_that_see_the_same_rows_share_them() {
        let rows = |ranges: &[(u32, u32)]| Mask {
            rows: ranges.iter().map(|&(start, end)| MaskRow { start, end, bits: None }).collect(),
            ..Mask::default()
        };
        assert!(rows(&[]).is_shared());
        assert!(rows(&[(5, 700)]).is_shared());
        assert!(rows(&[(0, 300), (0, 301), (0, 302)]).is_shared());
        assert!(!rows(&[(0, 300), (300, 600)]).is_shared());
        // The same range by turns.
        let turns = |words: [u64; 6]| Mask {
            rows: [0, 3].map(|base| MaskRow { start: 70, end: 250, bits: Some(base) }).to_vec(),
            words: words.to_vec(),
            ..Mask::default()
        };
        assert!(
            !turns(
                [0x5555_5555_5555_5555; 3]
                    .into_iter()
                    .chain([!0x5555_5555_5555_5555; 3])
                    .collect::<Vec<_>>()
                    .try_into()
                    .expect("six words")
            )
            .is_shared()
        );
        assert!(turns([0x5555_5555_5555_5555; 6]).is_shared());
    }
}
