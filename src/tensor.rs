//! Constant tensors of a model: a name, a type, a shape and the bytes, which stay where the file has them.
//! Made by `model::Loader`, read by the backends.

use crate::gguf::Bytes;
use crate::quant::DType;
use std::sync::Arc;

/// A weight tensor. `ne[0]` is the length of a row; rows are contiguous.
#[derive(Debug)]
pub struct Weight {
    /// Name in the file, e.g. `blk.0.attn_q.weight`.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Elements per dimension, innermost first; unused dimensions are 1.
    pub ne: [usize; 4],
    /// The bytes, in file layout.
    pub data: Bytes,
    /// For some rows of a tensor of the file: its name, and the first of them.
    pub part_of: Option<(String, usize)>,
}

/// A shared weight, as architectures hold it.
pub type WeightRef = Arc<Weight>;

impl Weight {
    /// The bytes of all rows.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Bytes of one row.
    pub fn row_size(&self) -> usize {
        self.dtype.row_size(self.ne[0])
    }

    /// Number of rows over all outer dimensions.
    pub fn n_rows(&self) -> usize {
        self.ne[1] * self.ne[2] * self.ne[3]
    }

    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        self.ne[0] * self.n_rows()
    }
}
