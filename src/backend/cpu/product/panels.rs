//! Products with many tokens: 32 rows at a time are unpacked into cache, and all tokens sweep over them.

use super::Sink;
use crate::backend::cpu::act::{X_BLOCK, XBlock};
use crate::backend::cpu::formats::{Format, ScaleVectors, Zero};
use crate::backend::cpu::kernels::Kernel;
use crate::backend::cpu::scratch::Scratch;
use crate::backend::cpu::simd::{Lanes, PANEL_ROWS, PanelI8, Rows, Simd};
use std::ops::Range;

/// Longest row of a panel in groups of 32, so that the panel stays in the second-level cache; longer rows are summed up
/// in pieces. A multiple of the groups of a block, of weights and of activations.
pub const PANEL_GROUPS: usize = 128;

const CACHE_LINE: usize = 64;

/// Rows times all tokens, by panels.
pub struct Panels<'a, F> {
    /// All rows.
    pub w: Rows<'a, F>,
    /// Which of them.
    pub rows: Range<usize>,
    /// The tokens.
    pub x: Rows<'a, XBlock>,
    /// Memory for a panel.
    pub scratch: &'a mut Scratch,
    /// Gets the results.
    pub sink: &'a mut dyn Sink,
}

impl<F: Format> Kernel for Panels<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { w, rows, x, scratch, sink } = self;
        panels::<S, F>(s, w, rows, x, scratch, sink);
    }
}

/// Panels of 32 rows, each swept by all tokens.
#[inline(always)]
fn panels<S: Simd, F: Format>(
    s: S,
    w: Rows<'_, F>,
    rows: Range<usize>,
    x: Rows<'_, XBlock>,
    scratch: &mut Scratch,
    sink: &mut dyn Sink,
) {
    // In groups of 32.
    let n_groups = w.width() * F::GROUPS;
    let pieces = n_groups.div_ceil(PANEL_GROUPS).max(1);
    let part = |piece: usize| piece * PANEL_GROUPS / F::GROUPS..n_groups.min((piece + 1) * PANEL_GROUPS) / F::GROUPS;
    let mut row = rows.start;
    Ahead::new(w, row..rows.end, part(0)).all(s.lanes());
    while row < rows.end {
        let n_rows = PANEL_ROWS.min(rows.end - row);
        for piece in 0..pieces {
            let blocks = part(piece);
            let x = x.columns(blocks.start * F::GROUPS / 8..(blocks.end * F::GROUPS).div_ceil(8));
            // The sums come first, so that they stay where they are when the last piece is shorter.
            let sums_size = if pieces > 1 { x.n() * PANEL_ROWS * 4 } else { 0 };
            let [partial, bytes] = scratch.split([sums_size, panel_bytes::<F>(blocks.len() * F::GROUPS)]);
            let ahead = if piece + 1 < pieces {
                Ahead::new(w, row..row + n_rows, part(piece + 1))
            } else {
                Ahead::new(w, row + n_rows..rows.end, part(0))
            };
            let panel = expand::<S, F>(s, w, row..row + n_rows, blocks, ahead, bytes);
            let partial: &mut [f32] = bytemuck::cast_slice_mut(partial);
            let last = piece + 1 == pieces;
            let mut emit = |t: usize, sums: &[f32; PANEL_ROWS]| {
                if pieces == 1 {
                    sink.put(t, row, &sums[..n_rows]);
                    return;
                }
                let total = &mut partial[t * PANEL_ROWS..][..PANEL_ROWS];
                for (total, sum) in total.iter_mut().zip(sums) {
                    *total = if piece == 0 { *sum } else { *total + *sum };
                }
                if last {
                    sink.put(t, row, &total[..n_rows]);
                }
            };
            sweep::<S, F>(s, panel, x, &mut emit);
        }
        row += n_rows;
    }
}

/// Sweeps with the constants of a format, rounded up to few cases to bound the amount of code.
#[inline(always)]
fn sweep<S: Simd, F: Format>(
    s: S,
    panel: PanelI8<'_>,
    x: Rows<'_, XBlock>,
    emit: &mut dyn FnMut(usize, &[f32; PANEL_ROWS]),
) {
    match (F::HALVES, F::MAX) {
        (false, 0..=15) => s.sweep_i8::<false, 15>(panel, x, emit),
        (false, 16..=127) => s.sweep_i8::<false, 31>(panel, x, emit),
        (false, 128..) => s.sweep_i8::<false, 255>(panel, x, emit),
        (true, 0..=15) => s.sweep_i8::<true, 15>(panel, x, emit),
        (true, _) => s.sweep_i8::<true, 63>(panel, x, emit),
    }
}

/// Bytes of a panel of `n_groups` groups of 32 per row.
fn panel_bytes<F: Format>(n_groups: usize) -> usize {
    let n_subs = n_groups * parts::<F>();
    n_groups * 32 * PANEL_ROWS + 2 * n_subs * PANEL_ROWS * 4
}

/// Parts of a group with scales of their own.
const fn parts<F: Format>() -> usize {
    if F::HALVES { 2 } else { 1 }
}

/// The blocks that will be unpacked next, asked for while others are: rows side by side are no stream that a processor would
/// recognize.
#[derive(Clone, Copy)]
struct Ahead<F> {
    first: *const F,
    /// Blocks from row to row.
    stride: usize,
    n_rows: usize,
    n_blocks: usize,
}

impl<F: Format> Ahead<F> {
    /// Blocks `part` of the first panel of `rows`; nothing if there are no rows.
    #[inline(always)]
    fn new(w: Rows<'_, F>, rows: Range<usize>, part: Range<usize>) -> Self {
        let n_rows = PANEL_ROWS.min(rows.len());
        let first = if n_rows == 0 { std::ptr::null() } else { w.row(rows.start)[part.clone()].as_ptr() };
        Ahead { first, stride: w.width(), n_rows, n_blocks: part.len() }
    }

    /// Asks for block `i` of sixteen rows from `rows` on.
    #[inline(always)]
    fn blocks(&self, l: impl Lanes, rows: usize, i: usize) {
        if i < self.n_blocks {
            for r in rows..self.n_rows.min(rows + 16) {
                for line in (0..size_of::<F>()).step_by(CACHE_LINE) {
                    l.prefetch(self.first.wrapping_add(r * self.stride + i).cast::<u8>().wrapping_add(line));
                }
            }
        }
    }

    /// Asks for everything, in the order of memory.
    #[inline(always)]
    fn all(&self, l: impl Lanes) {
        for r in 0..self.n_rows {
            for line in (0..self.n_blocks * size_of::<F>()).step_by(CACHE_LINE) {
                l.prefetch(self.first.wrapping_add(r * self.stride).cast::<u8>().wrapping_add(line));
            }
        }
    }
}

/// Unpacks the blocks `part` of up to 32 rows into `bytes`; absent rows repeat the last.
#[inline(always)]
fn expand<'a, S: Simd, F: Format>(
    s: S,
    w: Rows<'_, F>,
    rows: Range<usize>,
    part: Range<usize>,
    ahead: Ahead<F>,
    bytes: &'a mut [u8],
) -> PanelI8<'a> {
    let l = s.lanes();
    let n_groups = part.len() * F::GROUPS;
    let (q, scales) = bytes.split_at_mut(n_groups * 32 * PANEL_ROWS);
    let (d, m) = bytemuck::cast_slice_mut::<u8, f32>(scales).split_at_mut(n_groups * parts::<F>() * PANEL_ROWS);
    for column in (0..PANEL_ROWS).step_by(16) {
        let mut eights: [[&[F]; 8]; 2] = [[&[]; 8]; 2];
        for (r, row) in eights.as_flattened_mut().iter_mut().enumerate() {
            *row = &w.row((rows.start + column + r).min(rows.end - 1))[part.clone()];
        }
        for (h, eight) in eights.iter().enumerate() {
            expand_scales::<S, F>(s, *eight, column + 8 * h, d, m);
        }
        for i in 0..part.len() {
            ahead.blocks(l, column, i);
            for g in 0..F::GROUPS {
                let mut bytes = [[l.splat(0); 8]; 2];
                for (bytes, eight) in bytes.iter_mut().zip(&eights) {
                    for (bytes, row) in bytes.iter_mut().zip(eight) {
                        *bytes = row[i].unpack(l, g);
                    }
                }
                s.store_columns(bytes, &mut q[(i * F::GROUPS + g) * 32 * PANEL_ROWS + 4 * column..]);
            }
        }
    }
    PanelI8 { q, d, m, n_groups }
}

/// Scales and minima of eight rows, at rows `column..` of a panel.
#[inline(always)]
fn expand_scales<S: Simd, F: Format>(s: S, rows: [&[F]; 8], column: usize, d: &mut [f32], m: &mut [f32]) {
    let l = s.lanes();
    let per_block = X_BLOCK / F::LEN;
    let n = rows[0].len();
    if F::GROUPS == 1 {
        // A block of each row makes a vector in the order of the panel.
        for i in 0..n {
            let mut blocks = [&rows[0][i]; 8];
            for (block, row) in blocks.iter_mut().zip(rows) {
                *block = &row[i];
            }
            let ScaleVectors { d: [d8, _], m: [m8, _] } = F::scale_vectors(l, blocks);
            let m8 = match F::ZERO {
                Zero::Minima => m8,
                Zero::Offset(offset) => l.mul(d8, l.splat_f32(-f32::from(offset))),
            };
            let at = i * PANEL_ROWS + column;
            l.store_f32(d[at..].first_chunk_mut().expect("eight rows"), d8);
            l.store_f32(m[at..].first_chunk_mut().expect("eight rows"), m8);
        }
        return;
    }
    let n_whole = n / per_block;
    let n_vectors = parts::<F>();
    for b in 0..n_whole {
        let mut vectors = [ScaleVectors { d: [l.zero(); 2], m: [l.zero(); 2] }; 8];
        for (vectors, row) in vectors.iter_mut().zip(rows) {
            let blocks = &row[b * per_block..][..per_block];
            let mut of_group = [&blocks[0]; 8];
            for (g, of_group) in of_group.iter_mut().enumerate() {
                *of_group = &blocks[g / F::GROUPS];
            }
            *vectors = F::scale_vectors(l, of_group);
            if let Zero::Offset(offset) = F::ZERO {
                for v in 0..n_vectors {
                    vectors.m[v] = l.mul(vectors.d[v], l.splat_f32(-f32::from(offset)));
                }
            }
        }
        for v in 0..n_vectors {
            let (mut by_row, mut minima) = ([l.splat(0); 8], [l.splat(0); 8]);
            for r in 0..8 {
                by_row[r] = l.bits(vectors[r].d[v]);
                minima[r] = l.bits(vectors[r].m[v]);
            }
            for (i, (d8, m8)) in l.transpose(by_row).into_iter().zip(l.transpose(minima)).enumerate() {
                // Halves come in the order of `half_index`.
                let sub = if F::HALVES { 8 * v + 2 * (i % 4) + i / 4 } else { i };
                let at = (8 * n_vectors * b + sub) * PANEL_ROWS + column;
                l.store(bytemuck::cast_mut::<[f32; 8], _>(d[at..].first_chunk_mut().expect("eight rows")), d8);
                l.store(bytemuck::cast_mut::<[f32; 8], _>(m[at..].first_chunk_mut().expect("eight rows")), m8);
            }
        }
    }
}
