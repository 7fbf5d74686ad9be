//! Rounding of whole rows as model files are quantized: with an importance for every column where there is one. Called by
//! `crate::quantize`.

use super::fit::sum_squares;
use super::{Block, DType, iq_quantize, iq1_quantize, iq4_quantize, quantize, weighted};
use crate::error::{Error, Result};

/// Whether [`quantize_rows`] refuses to work without an importance.
pub fn requires_importance(dtype: DType) -> bool {
    matches!(dtype, DType::IQ1S | DType::IQ2XXS | DType::IQ2XS)
}

/// Rounds rows of `n_per_row` elements. `importance` says per column how much an error weighs; formats without a search
/// ignore it. Fails when lengths do not match, the type cannot be made from f32, or it needs an importance.
pub fn quantize_rows(
    dtype: DType,
    x: &[f32],
    n_per_row: usize,
    importance: Option<&[f32]>,
    bytes: &mut [u8],
) -> Result<()> {
    if n_per_row == 0
        || !n_per_row.is_multiple_of(dtype.block_size())
        || !x.len().is_multiple_of(n_per_row)
        || bytes.len() != dtype.row_size(x.len())
        || importance.is_some_and(|w| w.len() != n_per_row)
    {
        return Err(Error::argument(format!(
            "{} elements in rows of {n_per_row}, {} bytes of {dtype}, an importance of {:?}",
            x.len(),
            bytes.len(),
            importance.map(<[f32]>::len)
        )));
    }
    if importance.is_none() && requires_importance(dtype) {
        return Err(Error::argument(format!("{dtype} cannot be made without an importance matrix")));
    }
    let Some(encode) = searching(dtype, importance.is_some()) else { return quantize(dtype, x, bytes) };
    for (x, bytes) in x.chunks_exact(n_per_row).zip(bytes.chunks_exact_mut(dtype.row_size(n_per_row))) {
        encode(x, importance, bytes);
    }
    Ok(())
}

type EncodeRow = fn(&[f32], Option<&[f32]>, &mut [u8]);

/// How a row is rounded where that is not what [`quantize`] does.
fn searching(dtype: DType, has_importance: bool) -> Option<EncodeRow> {
    let with_importance: EncodeRow = match dtype {
        DType::IQ2XXS => |x, w, bytes| important(x, w, bytes, iq_quantize::iq2_xxs),
        DType::IQ2XS => |x, w, bytes| important(x, w, bytes, iq_quantize::iq2_xs),
        DType::IQ1S => |x, w, bytes| important(x, w, bytes, iq1_quantize::iq1_s),
        DType::IQ2S => return Some(|x, w, bytes| blocks(x, w, bytes, iq_quantize::iq2_s)),
        DType::IQ3XXS => return Some(|x, w, bytes| blocks(x, w, bytes, iq_quantize::iq3_xxs)),
        DType::IQ3S => return Some(|x, w, bytes| blocks(x, w, bytes, iq_quantize::iq3_s)),
        DType::IQ1M => return Some(|x, w, bytes| blocks(x, w, bytes, iq1_quantize::iq1_m)),
        DType::IQ4NL => return Some(|x, w, bytes| blocks(x, w, bytes, iq4_quantize::iq4_nl)),
        DType::IQ4XS => return Some(|x, w, bytes| blocks(x, w, bytes, iq4_quantize::iq4_xs)),
        DType::Q4_0 => |x, w, bytes| spread(x, w, bytes, weighted::q4_0),
        DType::Q4_1 => |x, w, bytes| spread(x, w, bytes, weighted::q4_1),
        DType::Q5_0 => |x, w, bytes| spread(x, w, bytes, weighted::q5_0),
        DType::Q5_1 => |x, w, bytes| spread(x, w, bytes, weighted::q5_1),
        DType::Q2K => |x, w, bytes| important(x, w, bytes, weighted::q2_k),
        DType::Q3K => |x, w, bytes| important(x, w, bytes, weighted::q3_k),
        DType::Q4K => |x, w, bytes| important(x, w, bytes, weighted::q4_k),
        DType::Q5K => |x, w, bytes| important(x, w, bytes, weighted::q5_k),
        DType::Q6K => |x, w, bytes| important(x, w, bytes, weighted::q6_k),
        DType::F32
        | DType::F16
        | DType::BF16
        | DType::Q8_0
        | DType::Q8_1
        | DType::Q8K
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::F64
        | DType::TQ1_0
        | DType::TQ2_0
        | DType::MXFP4
        | DType::NVFP4
        | DType::Q1_0
        | DType::Q2_0 => return None,
    };
    has_importance.then_some(with_importance)
}

fn blocks<B: Block>(x: &[f32], w: Option<&[f32]>, bytes: &mut [u8], round: impl Fn(&[f32], Option<&[f32]>) -> B) {
    for (i, (x, bytes)) in x.chunks_exact(B::LEN).zip(bytes.chunks_exact_mut(size_of::<B>())).enumerate() {
        let block = round(x, w.map(|w| &w[B::LEN * i..][..B::LEN]));
        bytes.copy_from_slice(bytemuck::bytes_of(&block));
    }
}

fn important<B: Block>(x: &[f32], w: Option<&[f32]>, bytes: &mut [u8], round: impl Fn(&[f32], &[f32]) -> B) {
    blocks(x, w, bytes, |x, w| round(x, w.expect("quantize_rows picks this function when there is an importance")));
}

/// For formats that weigh an element by the mean square of its row.
fn spread<B: Block>(x: &[f32], w: Option<&[f32]>, bytes: &mut [u8], round: impl Fn(&[f32], &[f32], f32) -> B) {
    let mean_square = sum_squares(x) / x.len() as f32;
    important(x, w, bytes, |x, w| round(x, w, mean_square));
}
