//! How the elements of a row of keys or values are read in place, eight at a time.

use crate::backend::cpu::simd::Lanes;
use crate::quant::legacy::Q8_0;
use half::f16;

/// A type whose rows kernels read in place as floats. Rows have a multiple of eight elements.
pub trait Cells {
    /// Elements `8 * i ..`.
    ///
    /// # Safety
    /// `row` points to a row of at least `8 * i + 8` elements.
    unsafe fn eight<L: Lanes>(l: L, row: *const u8, i: usize) -> L::F;
}

/// Rows of f32, aligned to 4.
pub struct F32;
/// Rows of f16.
pub struct F16;
/// Rows of bf16.
pub struct BF16;

impl Cells for F32 {
    #[inline(always)]
    unsafe fn eight<L: Lanes>(l: L, row: *const u8, i: usize) -> L::F {
        // SAFETY: the row has these elements, as the caller says, and is aligned.
        l.load_f32(unsafe { &*row.add(32 * i).cast() })
    }
}

impl Cells for F16 {
    #[inline(always)]
    unsafe fn eight<L: Lanes>(l: L, row: *const u8, i: usize) -> L::F {
        // SAFETY: the row has these elements, as the caller says.
        l.load_f16(unsafe { &*row.add(16 * i).cast() })
    }
}

impl Cells for BF16 {
    #[inline(always)]
    unsafe fn eight<L: Lanes>(l: L, row: *const u8, i: usize) -> L::F {
        // SAFETY: the row has these elements, as the caller says.
        l.load_bf16(unsafe { &*row.add(16 * i).cast() })
    }
}

/// The scale of a block of q8_0, in all lanes.
///
/// # Safety
/// `row` points to more than `block` blocks.
#[inline(always)]
pub unsafe fn block_scale<L: Lanes>(l: L, row: *const u8, block: usize) -> L::F {
    // SAFETY: the row has this block, as the caller says, which begins with the scale.
    l.splat_f16(f16::from_bits(unsafe { row.add(size_of::<Q8_0>() * block).cast::<u16>().read_unaligned() }.to_le()))
}

/// The bytes of a block of q8_0.
///
/// # Safety
/// `row` points to more than `block` blocks, which live for `'a`.
#[inline(always)]
pub unsafe fn block_bytes<'a>(row: *const u8, block: usize) -> &'a [u8; 32] {
    // SAFETY: the row has this block, as the caller says; its bytes follow the scale.
    unsafe { &*row.add(size_of::<Q8_0>() * block + 2).cast() }
}
