//! Many queries per KV head, as in a prompt: each block of keys and values is converted to f32 once, and all queries sweep
//! over it.

use super::softmax::{bias, soften};
use super::{AttentionTask, seeing, seen};
use crate::backend::cpu::float_product::transpose;
use crate::backend::cpu::rows::to_float;
use crate::backend::cpu::simd::{PANEL_ROWS, PanelF32, Rows, Simd};

/// KV rows that are converted and scored at a time. A multiple of the rows of a panel and of 16.
const BLOCK: usize = 128;

/// See [`AttentionTask`]; it has one KV head.
#[inline(always)]
pub fn run<S: Simd>(s: S, task: AttentionTask<'_>) {
    let AttentionTask { common: c, heads_kv, tokens, rows, q, out, sums, scratch } = task;
    let head_kv = heads_kv.start;
    let (d_k, d_v, n_q) = (c.k.d, c.v.d, out.len());
    for q in q.iter_mut() {
        *q *= c.q_scale();
    }
    let v_stride = d_v.next_multiple_of(PANEL_ROWS);
    let k_stride = d_k.next_multiple_of(8);
    let sizes = [BLOCK * d_k, 8 * k_stride, BLOCK * v_stride, n_q * BLOCK, n_q * v_stride];
    let [keys, eight, values, scores, totals] =
        scratch.split(sizes.map(|n| n * 4)).map(bytemuck::cast_slice_mut::<u8, f32>);
    totals.fill(0.0);
    let seen = seen(c.mask, tokens.clone(), rows);
    for start in seen.clone().step_by(BLOCK) {
        let block = start..seen.end.min(start + BLOCK);
        let see = seeing(c.mask, tokens.clone(), block.clone());
        if see.is_empty() {
            continue;
        }
        for (panel, keys) in keys.chunks_exact_mut(PANEL_ROWS * d_k).enumerate() {
            let rows = start + panel * PANEL_ROWS..block.end.min(start + (panel + 1) * PANEL_ROWS);
            if rows.is_empty() {
                break;
            }
            for group in 0..rows.len().div_ceil(8) {
                for (r, out) in eight.chunks_exact_mut(k_stride).enumerate() {
                    // Rows beyond the end repeat the last one; their scores are not used.
                    let row = (rows.start + 8 * group + r).min(rows.end - 1);
                    to_float(s, c.k.dtype, c.k.row(head_kv, row), &mut out[..d_k]);
                }
                transpose(s, eight, k_stride, d_k, &mut keys[8 * group..], PANEL_ROWS);
            }
            let see = seeing(c.mask, see.clone(), rows);
            let from = (see.start - tokens.start) * c.group;
            let view = PanelF32 { w: keys, stride: PANEL_ROWS, k: d_k };
            let q = Rows::new(&q[from * d_k..], d_k, d_k, see.len() * c.group);
            s.product_f32::<false>(view, q, &mut scores[from * BLOCK + panel * PANEL_ROWS..], BLOCK);
        }
        let queries = (see.start - tokens.start) * c.group..(see.end - tokens.start) * c.group;
        // Beyond the end of a block there is nothing to weigh.
        let width = block.len().next_multiple_of(16);
        for i in queries.clone() {
            let scores = &mut scores[i * BLOCK..][..width];
            bias(s, &c, head_kv * c.group + i % c.group, tokens.start + i / c.group, &block, scores);
            let rescale = soften(s, scores, &mut out[i]);
            if rescale != 1.0 {
                for total in &mut totals[i * v_stride..][..d_v] {
                    *total *= rescale;
                }
            }
        }
        for (row, values) in block.clone().zip(values.chunks_exact_mut(v_stride)) {
            to_float(s, c.v.dtype, c.v.row(head_kv, row), &mut values[..d_v]);
        }
        for column in (0..d_v).step_by(PANEL_ROWS) {
            let view = PanelF32 { w: &values[column..], stride: v_stride, k: block.len() };
            let weights = Rows::new(&scores[queries.start * BLOCK..], BLOCK, block.len(), queries.len());
            s.product_f32::<true>(view, weights, &mut totals[queries.start * v_stride + column..], v_stride);
        }
    }
    for (to, from) in sums.chunks_exact_mut(d_v.max(1)).zip(totals.chunks_exact(v_stride.max(1))) {
        to.copy_from_slice(&from[..d_v]);
    }
    for state in out.iter_mut() {
        state.natural();
    }
}
