//! Caches of other types than f16, expanded once for the many tokens of a prompt: its attention then reads halves.

use super::attention::Rows;
use super::*;

/// Fewest tokens whose workgroups read rows often enough.
const MANY: usize = 128;

/// Elements of a thread, threads of a workgroup of `expand_cache.wgsl`.
const PIECE: usize = 8;
const THREADS: usize = 256;

/// The heads of the rows of keys or values.
#[derive(Clone, Copy)]
pub(super) struct CacheHeads {
    /// Elements of a head, heads, rows.
    pub d: usize,
    pub n: usize,
    pub rows: usize,
}

impl Compiler<'_> {
    /// Keys and values as cooperative matrices are loaded from quickest: where many tokens read them, and there is room, as halves in
    /// the scratch of the step.
    pub(super) fn expanded(&mut self, n_tokens: usize, both: [(Rows, CacheHeads); 2]) -> Result<[Rows; 2]> {
        // Heads of a row follow each other, and rows are whole blocks.
        let whole = |rows: &Rows, d: usize| {
            rows.kind != 0 && rows.at[1] as usize == d && rows.at[..3].iter().all(|n| n.is_multiple_of(32))
        };
        let size = |(rows, heads): &(Rows, CacheHeads)| {
            if rows.kind == KV_F16 { 0 } else { (heads.d * heads.n * heads.rows).div_ceil(2) + ALIGN }
        };
        let words = size(&both[0]) + size(&both[1]);
        let fits = 4 * (self.scratch + words) as u64 <= self.target.device.abilities.max_binding;
        let can = both.iter().all(|(rows, heads)| rows.kind == KV_F16 || whole(rows, heads.d));
        if n_tokens < MANY || words == 0 || !can || !fits {
            return Ok(both.map(|(rows, _)| rows));
        }
        let [keys, values] = both;
        Ok([self.expand_rows(keys)?, self.expand_rows(values)?])
    }

    /// Rows of a cache as halves in the scratch of the step.
    fn expand_rows(&mut self, (rows, heads): (Rows, CacheHeads)) -> Result<Rows> {
        if rows.kind == KV_F16 {
            return Ok(rows);
        }
        let row = heads.d * heads.n;
        let to = self.take_scratch((row * heads.rows).div_ceil(2));
        let params = Params::default().u(&[rows.at[0], rows.at[2], rows.at[3], word(heads.rows)?]).u(&[
            word(row / PIECE)?,
            word(to / 4)?,
            0,
            0,
        ]);
        let bindings = Bindings { state: rows.bound, ..Bindings::default() };
        let kernel = Kernel::plain("expand_cache", &[constant("K_TYPE", rows.kind)]);
        self.add(kernel, bindings, params, grid_of((row / PIECE * heads.rows).div_ceil(THREADS)))?;
        Ok(Rows { bound: Bound::Arena, kind: KV_F16, at: [word(2 * to)?, rows.at[1], word(row)?, 0] })
    }
}
