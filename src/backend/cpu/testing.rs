//! Random inputs and error measures for the tests of the kernels.

use crate::quant::DType;

/// A small deterministic generator (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in -1..1.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// `n` uniform numbers.
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// `n` elements of random blocks, finite and of moderate size.
    pub fn blocks(&mut self, dtype: DType, n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut values = vec![0.0; dtype.block_size()];
        while bytes.len() < dtype.row_size(n) {
            let block: Vec<u8> = (0..dtype.type_size()).map(|_| self.bits() as u8).collect();
            crate::quant::dequantize(dtype, &block, &mut values).unwrap();
            if values.iter().all(|v| v.abs() < 100.0) {
                bytes.extend_from_slice(&block);
            }
        }
        bytes
    }
}

/// The exact values of blocks.
pub fn dequantized(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / dtype.type_size() * dtype.block_size()];
    crate::quant::dequantize(dtype, bytes, &mut values).unwrap();
    values
}

/// Mean squared error relative to the mean square of what is expected.
pub fn nmse(expected: &[f64], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len());
    let error: f64 = expected.iter().zip(found).map(|(e, f)| (e - f64::from(*f)).powi(2)).sum();
    let size: f64 = expected.iter().map(|e| e * e).sum();
    if size == 0.0 { error } else { error / size }
}
