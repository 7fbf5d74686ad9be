//! GGUF files: metadata and tensors of a model. [`Gguf`] is the parsed (or built) header, [`GgufFiles`] a model's file or
//! split files with their bytes in memory. Called by `model` and `vocab`, by quantization, and by the gguf_* functions of
//! `capi`. Knows no model.
//!
//! Every count, length, offset and type is checked against the file before use, and memory is taken in proportion to what
//! the file really holds. A mapped file must stay as it is while in use: the system kills a process that touches pages
//! which another process has cut off the file.

mod file;
mod reader;
mod split;
mod target;
mod value;
mod writer;

pub use file::{Bytes, LoadMode, Source, Storage};
pub use reader::{DEFAULT_ALIGNMENT, Gguf, MAX_TENSOR_NAME, TensorInfo};
pub use split::{GgufFiles, LoadOptions, TensorData, TensorView, split_path, split_prefix};
pub use target::TargetFile;
pub use value::{Array, Element, FromElement, FromValue, Override, Value, ValueType};
