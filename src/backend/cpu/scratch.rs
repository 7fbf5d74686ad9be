//! Memory of one thread for panels and partial results, aligned to cache lines, kept from step to step.

use crate::error::{Error, Result};
use bytemuck::{Pod, Zeroable};

/// Grows to the largest request and stays.
#[derive(Default)]
pub struct Scratch {
    lines: Vec<Line>,
}

#[repr(C, align(64))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Line([u8; 64]);

impl Scratch {
    /// Makes room for pieces of `bytes` together, where [`Scratch::split`] would end the process if there is none.
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        grow(&mut self.lines, bytes.div_ceil(64), Line([0; 64]))
    }

    /// Pieces of the given sizes in bytes, each beginning on a cache line; their content is arbitrary.
    pub fn split<const N: usize>(&mut self, sizes: [usize; N]) -> [&mut [u8]; N] {
        let n_lines: usize = sizes.iter().map(|s| s.div_ceil(64)).sum();
        if self.lines.len() < n_lines {
            self.lines.resize(n_lines, Line([0; 64]));
        }
        let mut rest: &mut [u8] = bytemuck::cast_slice_mut(&mut self.lines);
        sizes.map(|size| {
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(size.next_multiple_of(64));
            rest = tail;
            &mut piece[..size]
        })
    }
}

/// Lengthens a buffer to `n` elements if it is shorter.
pub fn grow<T: Clone>(buffer: &mut Vec<T>, n: usize, value: T) -> Result<()> {
    if let Some(more) = n.checked_sub(buffer.len()) {
        let bytes = n.saturating_mul(size_of::<T>());
        buffer.try_reserve_exact(more).map_err(|e| Error::Memory(format!("{bytes} bytes of work space: {e}")))?;
        buffer.resize(n, value);
    }
    Ok(())
}
