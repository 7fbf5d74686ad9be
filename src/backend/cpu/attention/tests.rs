//! The attention kernels against plain sums in f64, over random shapes, types and masks.

use super::{AttentionTask, Common, KvView, Partial, finish};
use crate::backend::cpu::kernels::available;
use crate::backend::cpu::scratch::Scratch;
use crate::backend::cpu::testing::{Random, dequantized, nmse};
use crate::graph::{Mask, MaskRow};
use crate::quant::{self, DType};
use std::ops::Range;

/// What f32 sums may differ by.
const EXACT: f64 = 1e-10;

/// What queries and weights of 16 bits, as q8_0 takes them, may differ by: 1/65534 of the largest element, squared and divided by 3,
/// relative to a mean square of 1/3, times what the softmax makes of it.
const WORDS: f64 = 1e-8;

const TYPES: [DType; 9] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::IQ4NL,
];

const N_HEAD_KV: usize = 3;

struct Case {
    dtypes: [DType; 2],
    /// Elements of a key and of a value.
    d: [usize; 2],
    group: usize,
    n_tokens: usize,
    heads_kv: Range<usize>,
    /// Keys and values as stored, and their values.
    data: [Vec<u8>; 2],
    exact: [Vec<f32>; 2],
    rows: Range<usize>,
    mask: Mask,
    soft_cap: f32,
    slopes: Vec<f32>,
    q: Vec<f32>,
}

impl Case {
    fn new(r: &mut Random) -> Case {
        let mut pick = |n: usize| (r.bits() >> 20) as usize % n;
        let sizes = [32, 40, 64, 80, 96, 128, 192, 256, 12];
        let n_tokens = [1, 1, 1, 2, 3, 5, 9, 40, 67, 200][pick(10)];
        let (group, n_rows) = (1 + pick(5), 1 + pick(if n_tokens > 9 { 300 } else { 700 }));
        let first = if pick(2) == 0 { 0 } else { pick(N_HEAD_KV) };
        let several = n_tokens * group < super::MANY_QUERIES && pick(2) == 0;
        let heads_kv = first..if several { N_HEAD_KV } else { first + 1 };
        let rows = if pick(2) == 0 { 0..n_rows } else { pick(n_rows)..n_rows };
        let d = [sizes[pick(9)], sizes[pick(9)]];
        let type_of = |d: usize, i: usize| TYPES[if d.is_multiple_of(32) { i } else { i % 3 }];
        let dtypes = [type_of(d[0], pick(9)), type_of(d[1], pick(9))];
        let (capped, biased) = (pick(3) == 0, pick(3) == 0);
        let n_q = n_tokens * group * heads_kv.len();
        let data = [0, 1].map(|i| {
            let x = r.floats(n_rows * N_HEAD_KV * d[i]);
            let mut data = vec![0; dtypes[i].row_size(x.len())];
            quant::quantize(dtypes[i], &x, &mut data).unwrap();
            data
        });
        Case {
            exact: [0, 1].map(|i| dequantized(dtypes[i], &data[i])),
            mask: mask(r, n_tokens, n_rows),
            q: r.floats(n_q * d[0]),
            soft_cap: if capped { 3.0 } else { 0.0 },
            slopes: if biased { (1..=group * N_HEAD_KV).map(|h| 0.5 / h as f32).collect() } else { Vec::new() },
            dtypes,
            d,
            group,
            n_tokens,
            heads_kv,
            data,
            rows,
        }
    }

    /// Token, KV head and query head of a query.
    fn place(&self, i: usize) -> (usize, usize, usize) {
        let n_heads = self.heads_kv.len() * self.group;
        let head = self.heads_kv.start * self.group + i % n_heads;
        (i / n_heads, head / self.group, head)
    }

    fn expected(&self) -> Vec<f64> {
        let [d_k, d_v] = self.d;
        let mut out = Vec::new();
        for (i, q) in self.q.chunks_exact(d_k).enumerate() {
            let (token, head_kv, head) = self.place(i);
            let row = |of: usize, row: usize| &self.exact[of][(row * N_HEAD_KV + head_kv) * self.d[of]..][..self.d[of]];
            let visible: Vec<usize> = self.rows.clone().filter(|&r| self.mask.visible(token, r as u32)).collect();
            let score = |r: &usize| {
                let dot: f64 = q.iter().zip(row(0, *r)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let mut score = dot * f64::from(SCALE);
                if self.soft_cap > 0.0 {
                    score = f64::from(self.soft_cap) * (score / f64::from(self.soft_cap)).tanh();
                }
                let distance = self.mask.kv_pos[*r] - self.mask.q_pos[token];
                score - self.slopes.get(head).map_or(0.0, |s| f64::from(*s)) * f64::from(distance.abs())
            };
            let scores: Vec<f64> = visible.iter().map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            let mut sums = vec![0.0; d_v];
            for (r, score) in visible.iter().zip(&scores) {
                sums.iter_mut().zip(row(1, *r)).for_each(|(s, v)| *s += (score - max).exp() / total * f64::from(*v));
            }
            out.extend(sums);
        }
        out
    }

    fn view(&self, i: usize) -> KvView<'_> {
        let row = self.dtypes[i].row_size(self.d[i]);
        let row_stride = N_HEAD_KV * row;
        KvView { dtype: self.dtypes[i], data: &self.data[i], head_stride: row, row_stride, d: self.d[i] }
    }
}

const SCALE: f32 = 0.6;

/// Ranges, some of them empty, some with bitmaps.
fn mask(r: &mut Random, n_tokens: usize, n_rows: usize) -> Mask {
    let mut mask = Mask::default();
    for _ in 0..n_tokens {
        let (a, b) = ((r.bits() >> 20) as usize % (n_rows + 1), (r.bits() >> 20) as usize % (n_rows + 1));
        let (start, end) = (a.min(b) as u32, a.max(b) as u32);
        let bits = r.bits().is_multiple_of(3).then_some(mask.words.len() as u32);
        if bits.is_some() {
            mask.words.extend((start / 64..end.div_ceil(64)).map(|_| r.bits() & r.bits()));
        }
        mask.rows.push(MaskRow { start, end, bits });
    }
    mask.kv_pos = (0..n_rows as i32).collect();
    mask.q_pos = (0..n_tokens as i32).map(|t| t + 5).collect();
    mask
}

#[test]
fn every_shape_type_and_mask() {
    let mut random = Random(11);
    for n in 0..250 {
        let case = Case::new(&mut random);
        let expected = case.expected();
        let n_q = case.q.len() / case.d[0];
        for isa in available() {
            let (mut q, mut out, mut sums) =
                (case.q.clone(), vec![Partial::EMPTY; n_q], vec![f32::NAN; expected.len()]);
            AttentionTask {
                common: Common {
                    k: case.view(0),
                    v: case.view(1),
                    mask: &case.mask,
                    scale: SCALE,
                    soft_cap: case.soft_cap,
                    slopes: &case.slopes,
                    group: case.group,
                },
                heads_kv: case.heads_kv.clone(),
                tokens: 0..case.n_tokens,
                rows: case.rows.clone(),
                q: &mut q,
                out: &mut out,
                sums: &mut sums,
                scratch: &mut Scratch::default(),
            }
            .compute(isa);
            let mut found = vec![f32::NAN; expected.len()];
            for ((state, sums), found) in out.iter().zip(sums.chunks(case.d[1])).zip(found.chunks_mut(case.d[1])) {
                finish(std::iter::once((*state, sums)), None, found);
            }
            let error = nmse(&expected, &found);
            let tolerance = if case.dtypes.contains(&DType::Q8_0) { WORDS } else { EXACT };
            let Case { dtypes, d, group, n_tokens, .. } = &case;
            assert!(error < tolerance, "case {n} by {}: {dtypes:?} {d:?} {group} {n_tokens}: {error:e}", isa.name());
        }
    }
}

/// llama.cpp rounds queries to the type of the keys: to 8 bits with a scale for 32 elements beside q8_0, to f16 beside f16.
/// Ours must not be less exact.
#[test]
fn queries_are_at_least_as_exact_as_theirs() {
    for dtype in [DType::Q8_0, DType::F16] {
        let mut random = Random(3);
        let mut errors = [0.0; 2];
        for _ in 0..20 {
            let mut case = Case::new(&mut random);
            let rounded = |case: &Case| {
                let mut data = vec![0; dtype.row_size(case.q.len())];
                quant::quantize(dtype, &case.q, &mut data).unwrap();
                dequantized(dtype, &data)
            };
            while !case.d[0].is_multiple_of(32) || case.n_tokens > 5 || case.dtypes[0] != dtype {
                case = Case::new(&mut random);
            }
            let expected = case.expected();
            let exact = case.q.clone();
            case.q = rounded(&case);
            let theirs: Vec<f32> = case.expected().iter().map(|v| *v as f32).collect();
            case.q = exact;
            let n_q = case.q.len() / case.d[0];
            let (mut q, mut out, mut sums) = (case.q.clone(), vec![Partial::EMPTY; n_q], vec![0.0; expected.len()]);
            let isa = *available().last().unwrap();
            let (k, v) = (case.view(0), case.view(1));
            let (soft_cap, slopes, group) = (case.soft_cap, &case.slopes[..], case.group);
            let common = Common { k, v, mask: &case.mask, scale: SCALE, soft_cap, slopes, group };
            let (heads_kv, tokens, rows) = (case.heads_kv.clone(), 0..case.n_tokens, case.rows.clone());
            let (q, states, totals) = (&mut q, &mut out, &mut sums);
            let scratch = &mut Scratch::default();
            AttentionTask { common, heads_kv, tokens, rows, q, out: states, sums: totals, scratch }.compute(isa);
            let mut found = vec![0.0; expected.len()];
            for ((state, sums), found) in out.iter().zip(sums.chunks(case.d[1])).zip(found.chunks_mut(case.d[1])) {
                finish(std::iter::once((*state, sums)), None, found);
            }
            errors[0] += nmse(&expected, &found);
            errors[1] += nmse(&expected, &theirs);
        }
        assert!(errors[0] < errors[1], "{dtype}: {errors:?}");
    }
}
