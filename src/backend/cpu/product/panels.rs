//! Products of many tokens: rows of weights are unpacked to panels, which all tokens sweep over. Called by `Product`.

use super::Sink;
use crate::backend::cpu::act::{X_BLOCK, XBlock};
use crate::backend::cpu::formats::{Format, ScaleVectors, Zero};
use crate::backend::cpu::scratch::Scratch;
use crate::backend::cpu::simd::{Lanes, PANEL_ROWS, PanelI8, Rows, Simd};
use std::ops::Range;

/// Longest row of a panel in groups of 32, so that the panel stays in the second-level cache; longer rows are summed up
/// in pieces. A multiple of the groups of a block, of weights and of activations.
pub(super) const PANEL_GROUPS: usize = 128;

/// Panels of 32 rows, each swept by all tokens.
#[inline(always)]
pub(super) fn panels<S: Simd, F: Format>(
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
    let mut row = rows.start;
    while row < rows.end {
        let n_rows = PANEL_ROWS.min(rows.end - row);
        for piece in 0..pieces {
            let from = piece * PANEL_GROUPS;
            let part = from..n_groups.min(from + PANEL_GROUPS);
            let x = x.columns(from / 8..part.end.div_ceil(8));
            // The sums come first, so that they stay where they are when the last piece is shorter.
            let sums_size = if pieces > 1 { x.n() * PANEL_ROWS * 4 } else { 0 };
            let [partial, bytes] = scratch.split([sums_size, panel_bytes::<F>(part.len())]);
            let panel = expand::<S, F>(s, w, row..row + n_rows, part.start / F::GROUPS..part.end / F::GROUPS, bytes);
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

/// Unpacks the blocks `part` of up to 32 rows into `bytes`; absent rows repeat the last.
#[inline(always)]
fn expand<'a, S: Simd, F: Format>(
    s: S,
    w: Rows<'_, F>,
    rows: Range<usize>,
    part: Range<usize>,
    bytes: &'a mut [u8],
) -> PanelI8<'a> {
    let l = s.lanes();
    let n_groups = part.len() * F::GROUPS;
    let (q, scales) = bytes.split_at_mut(n_groups * 32 * PANEL_ROWS);
    let (d, m) = bytemuck::cast_slice_mut::<u8, f32>(scales).split_at_mut(n_groups * parts::<F>() * PANEL_ROWS);
    for column in (0..PANEL_ROWS).step_by(8) {
        let mut eight: [&[F]; 8] = [&[]; 8];
        for (r, row) in eight.iter_mut().enumerate() {
            *row = &w.row((rows.start + column + r).min(rows.end - 1))[part.clone()];
        }
        expand_scales::<S, F>(s, eight, column, d, m);
        for i in 0..part.len() {
            for g in 0..F::GROUPS {
                let mut bytes = [l.splat(0); 8];
                for (bytes, row) in bytes.iter_mut().zip(&eight) {
                    *bytes = row[i].unpack(l, g);
                }
                let columns = l.transpose(bytes);
                for (step, column_bytes) in columns.into_iter().enumerate() {
                    let at = ((i * F::GROUPS + g) * 8 + step) * PANEL_ROWS * 4 + 4 * column;
                    l.store(q[at..].first_chunk_mut().expect("a panel step is 128 bytes"), column_bytes);
                }
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
    for i in n_whole * per_block..n {
        for (r, row) in rows.iter().enumerate() {
            let scales = row[i].scales(l);
            let at = i * PANEL_ROWS + column + r;
            (d[at], m[at]) = (scales.d[0], scales.m[0]);
        }
    }
}
