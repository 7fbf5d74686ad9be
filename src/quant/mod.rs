//! Block formats: how each tensor type of a file is laid out, and its exact conversion from and to f32. [`FORMATS`] is the
//! one table of them. Called by the GGUF reader (sizes), the reference backend (exact dequantization), the CPU backend
//! (which reads the block structs in place) and everything that writes tensors.
//!
//! Conversions are bit-exact with ggml's reference routines, so results of other engines can be compared with equality.

mod codebook;
mod fit;
mod grids;
pub mod iq;
mod iq1_quantize;
mod iq4_quantize;
mod iq_quantize;
pub mod k;
mod k_quantize;
pub mod legacy;
mod rows;
pub mod small;
mod weighted;

pub use rows::{quantize_rows, requires_importance};

use crate::error::{Error, Result};
use half::{bf16, f16};

#[cfg(target_endian = "big")]
compile_error!("block formats are little-endian and read in place");

/// The type of a tensor's elements, with ggml's numbers.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // FORMATS names and sizes them
pub enum DType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q8_1 = 9,
    Q2K = 10,
    Q3K = 11,
    Q4K = 12,
    Q5K = 13,
    Q6K = 14,
    Q8K = 15,
    IQ2XXS = 16,
    IQ2XS = 17,
    IQ3XXS = 18,
    IQ1S = 19,
    IQ4NL = 20,
    IQ3S = 21,
    IQ2S = 22,
    IQ4XS = 23,
    I8 = 24,
    I16 = 25,
    I32 = 26,
    I64 = 27,
    F64 = 28,
    IQ1M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
    NVFP4 = 40,
    Q1_0 = 41,
    Q2_0 = 42,
}

/// One more than the largest type number; numbers below it that no [`DType`] has were retired by ggml.
pub const N_DTYPES: u32 = 43;

/// A block as it lies in a file: [`Block::LEN`] elements in `size_of::<Self>()` bytes.
pub trait Block: bytemuck::Pod {
    /// The type whose rows are made of these blocks.
    const DTYPE: DType;
    /// Elements per block.
    const LEN: usize;

    /// Writes the exact values; `y.len()` is [`Block::LEN`].
    fn dequantize(&self, y: &mut [f32]);

    /// Whether the scales are free of NaN and infinity, so that the values are.
    fn is_finite(&self) -> bool;
}

/// A block that can be made from values alone, without an importance matrix.
pub trait Quantize: Block {
    /// Rounds `x` (of [`Block::LEN`] elements) into a block.
    fn quantize(x: &[f32]) -> Self;
}

type Decode = fn(&[u8], &mut [f32]);
type Encode = fn(&[f32], &mut [u8]);

/// What is known about a [`DType`].
pub struct Format {
    /// The type.
    pub dtype: DType,
    /// ggml's name of it, e.g. `q4_K`.
    pub name: &'static str,
    /// Elements per block.
    pub block_size: usize,
    /// Bytes per block.
    pub type_size: usize,
    /// Whether elements share scales in blocks.
    pub is_quantized: bool,
    to_float: Option<Decode>,
    from_float: Option<Encode>,
    validate: Option<fn(&[u8]) -> bool>,
}

/// Every format, in the order of the type numbers.
pub static FORMATS: [Format; 35] = TABLE;

const TABLE: [Format; 35] = [
    plain(DType::F32, "f32", 4, Some(f32_to_f32), Some(f32_from_f32), f32_is_finite),
    plain(DType::F16, "f16", 2, Some(f16_to_f32), Some(f16_from_f32), f16_is_finite),
    coded::<legacy::Q4_0>("q4_0"),
    coded::<legacy::Q4_1>("q4_1"),
    coded::<legacy::Q5_0>("q5_0"),
    coded::<legacy::Q5_1>("q5_1"),
    coded::<legacy::Q8_0>("q8_0"),
    Format { validate: None, ..coded::<legacy::Q8_1>("q8_1") },
    coded::<k::Q2K>("q2_K"),
    coded::<k::Q3K>("q3_K"),
    coded::<k::Q4K>("q4_K"),
    coded::<k::Q5K>("q5_K"),
    coded::<k::Q6K>("q6_K"),
    coded::<k::Q8K>("q8_K"),
    block::<iq::IQ2XXS>("iq2_xxs"),
    block::<iq::IQ2XS>("iq2_xs"),
    block::<iq::IQ3XXS>("iq3_xxs"),
    block::<iq::IQ1S>("iq1_s"),
    coded::<iq::IQ4NL>("iq4_nl"),
    block::<iq::IQ3S>("iq3_s"),
    block::<iq::IQ2S>("iq2_s"),
    coded::<iq::IQ4XS>("iq4_xs"),
    plain(DType::I8, "i8", 1, None, None, always),
    plain(DType::I16, "i16", 2, None, None, always),
    plain(DType::I32, "i32", 4, None, None, always),
    plain(DType::I64, "i64", 8, None, None, always),
    plain(DType::F64, "f64", 8, None, None, f64_is_finite),
    block::<iq::IQ1M>("iq1_m"),
    plain(DType::BF16, "bf16", 2, Some(bf16_to_f32), Some(bf16_from_f32), bf16_is_finite),
    coded::<small::TQ1_0>("tq1_0"),
    coded::<small::TQ2_0>("tq2_0"),
    coded::<small::MXFP4>("mxfp4"),
    coded::<small::NVFP4>("nvfp4"),
    coded::<small::Q1_0>("q1_0"),
    coded::<small::Q2_0>("q2_0"),
];

/// Row of [`FORMATS`] by type number; `u8::MAX` where there is none.
const ROW: [u8; N_DTYPES as usize] = {
    let mut row = [u8::MAX; N_DTYPES as usize];
    let mut i = 0;
    while i < TABLE.len() {
        row[TABLE[i].dtype as usize] = i as u8;
        i += 1;
    }
    row
};

impl DType {
    /// The type with ggml's number `n`, unless unknown or retired.
    pub fn from_u32(n: u32) -> Option<DType> {
        let row = *ROW.get(n as usize)?;
        FORMATS.get(row as usize).map(|f| f.dtype)
    }

    /// The type's row of [`FORMATS`].
    pub fn format(self) -> &'static Format {
        &FORMATS[ROW[self as usize] as usize]
    }

    /// ggml's name, e.g. `q4_K`.
    pub fn name(self) -> &'static str {
        self.format().name
    }

    /// Elements per block: 1 for plain types.
    pub fn block_size(self) -> usize {
        self.format().block_size
    }

    /// Bytes per block.
    pub fn type_size(self) -> usize {
        self.format().type_size
    }

    /// Bytes of a row of `n` elements; `n` is a multiple of [`DType::block_size`].
    pub fn row_size(self, n: usize) -> usize {
        n / self.block_size() * self.type_size()
    }

    /// Whether elements share scales in blocks.
    pub fn is_quantized(self) -> bool {
        self.format().is_quantized
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Converts whole blocks of `dtype` to f32, exactly. `bytes` may be unaligned. Fails when the lengths do not match or the
/// type holds integers or f64.
pub fn dequantize(dtype: DType, bytes: &[u8], y: &mut [f32]) -> Result<()> {
    check_lengths(dtype, bytes.len(), y.len())?;
    let to_float = dtype.format().to_float.ok_or_else(|| Error::Unsupported(format!("{dtype} to f32")))?;
    to_float(bytes, y);
    Ok(())
}

/// Rounds whole blocks of f32 to `dtype` as ggml's reference quantizers do. Fails when the lengths do not match or the
/// type has no quantizer that works without an importance matrix.
pub fn quantize(dtype: DType, x: &[f32], bytes: &mut [u8]) -> Result<()> {
    check_lengths(dtype, bytes.len(), x.len())?;
    let from_float = dtype.format().from_float.ok_or_else(|| Error::Unsupported(format!("f32 to {dtype}")))?;
    from_float(x, bytes);
    Ok(())
}

/// Whether `bytes` are whole blocks whose scales (or plain values) are all finite: what `check_tensors` asks of a file.
pub fn validate(dtype: DType, bytes: &[u8]) -> bool {
    let format = dtype.format();
    bytes.len().is_multiple_of(format.type_size) && format.validate.is_some_and(|validate| validate(bytes))
}

/// `bytes` as blocks in place; `None` when they are not whole, or not aligned for `B`.
pub fn blocks<B: Block>(bytes: &[u8]) -> Option<&[B]> {
    bytemuck::try_cast_slice(bytes).ok()
}

fn check_lengths(dtype: DType, n_bytes: usize, n: usize) -> Result<()> {
    if !n.is_multiple_of(dtype.block_size()) || dtype.row_size(n) != n_bytes {
        return Err(Error::argument(format!(
            "{n} elements of {dtype} (blocks of {}) do not fit {n_bytes} bytes",
            dtype.block_size()
        )));
    }
    Ok(())
}

const fn plain(
    dtype: DType,
    name: &'static str,
    type_size: usize,
    to_float: Option<Decode>,
    from_float: Option<Encode>,
    validate: fn(&[u8]) -> bool,
) -> Format {
    let validate = Some(validate);
    Format { dtype, name, block_size: 1, type_size, is_quantized: false, to_float, from_float, validate }
}

const fn block<B: Block>(name: &'static str) -> Format {
    Format {
        dtype: B::DTYPE,
        name,
        block_size: B::LEN,
        type_size: size_of::<B>(),
        is_quantized: true,
        to_float: Some(blocks_to_f32::<B>),
        from_float: None,
        validate: Some(blocks_are_finite::<B>),
    }
}

const fn coded<B: Quantize>(name: &'static str) -> Format {
    Format { from_float: Some(blocks_from_f32::<B>), ..block::<B>(name) }
}

fn blocks_to_f32<B: Block>(bytes: &[u8], y: &mut [f32]) {
    for (b, y) in bytes.chunks_exact(size_of::<B>()).zip(y.chunks_exact_mut(B::LEN)) {
        bytemuck::pod_read_unaligned::<B>(b).dequantize(y);
    }
}

fn blocks_from_f32<B: Quantize>(x: &[f32], bytes: &mut [u8]) {
    for (x, b) in x.chunks_exact(B::LEN).zip(bytes.chunks_exact_mut(size_of::<B>())) {
        b.copy_from_slice(bytemuck::bytes_of(&B::quantize(x)));
    }
}

fn blocks_are_finite<B: Block>(bytes: &[u8]) -> bool {
    bytes.chunks_exact(size_of::<B>()).all(|b| bytemuck::pod_read_unaligned::<B>(b).is_finite())
}

/// Elements of a plain type, from bytes of any alignment.
fn elements<'a, const N: usize>(bytes: &'a [u8]) -> impl Iterator<Item = [u8; N]> + 'a {
    bytes.as_chunks::<N>().0.iter().copied()
}

fn f32_to_f32(bytes: &[u8], y: &mut [f32]) {
    bytemuck::cast_slice_mut::<f32, u8>(y).copy_from_slice(bytes);
}

fn f32_from_f32(x: &[f32], bytes: &mut [u8]) {
    bytes.copy_from_slice(bytemuck::cast_slice(x));
}

fn f32_is_finite(bytes: &[u8]) -> bool {
    elements::<4>(bytes).all(|b| f32::from_le_bytes(b).is_finite())
}

fn f64_is_finite(bytes: &[u8]) -> bool {
    // Infinite as f32 counts: values are narrowed before use.
    elements::<8>(bytes).all(|b| (f64::from_le_bytes(b) as f32).is_finite())
}

fn f16_to_f32(bytes: &[u8], y: &mut [f32]) {
    for (b, y) in elements::<2>(bytes).zip(y) {
        *y = f16::from_le_bytes(b).to_f32();
    }
}

fn f16_from_f32(x: &[f32], bytes: &mut [u8]) {
    for (x, b) in x.iter().zip(bytes.as_chunks_mut::<2>().0) {
        *b = to_f16(*x).to_le_bytes();
    }
}

fn f16_is_finite(bytes: &[u8]) -> bool {
    elements::<2>(bytes).all(|b| f16::from_le_bytes(b).is_finite())
}

fn bf16_to_f32(bytes: &[u8], y: &mut [f32]) {
    for (b, y) in elements::<2>(bytes).zip(y) {
        *y = f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16);
    }
}

fn bf16_from_f32(x: &[f32], bytes: &mut [u8]) {
    for (x, b) in x.iter().zip(bytes.as_chunks_mut::<2>().0) {
        *b = bf16::from_f32(*x).to_le_bytes();
    }
}

fn bf16_is_finite(bytes: &[u8]) -> bool {
    elements::<2>(bytes).all(|b| bf16::from_le_bytes(b).is_finite())
}

fn always(_: &[u8]) -> bool {
    true
}

/// Nearest f16, ties to even; every NaN becomes the same one (with its sign), where processors keep payload bits.
pub(crate) fn to_f16(x: f32) -> f16 {
    if x.is_nan() { f16::from_bits(0x7e00 | (x.to_bits() >> 16 & 0x8000) as u16) } else { f16::from_f32(x) }
}

/// Truncates as x86 does: what does not fit (an infinity, from the inverse of a subnormal scale) becomes `i32::MIN`.
pub(crate) fn to_i32(x: f32) -> i32 {
    if x.abs() < 2_147_483_648.0 { x as i32 } else { i32::MIN }
}
