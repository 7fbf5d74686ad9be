//! Writing GGUF version 3: the header of a [`Gguf`] and the data of its tensors. Used by quantization, tests, and the
//! gguf_write_* functions of `capi`.

use super::reader::{Gguf, MAGIC, TensorInfo, VERSION, pad};
use super::value::{Element, Value};
use crate::error::{Error, Result};
use std::io::Write;

impl Gguf {
    /// The header in bytes, padded to where the data section starts.
    pub fn meta_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC);
        VERSION.write(&mut out);
        (self.tensors().len() as u64).write(&mut out);
        (self.kv().len() as u64).write(&mut out);
        for (key, value) in self.kv() {
            write_string(key.as_bytes(), &mut out);
            (value.value_type() as u32).write(&mut out);
            write_value(value, &mut out);
        }
        for tensor in self.tensors() {
            write_tensor(tensor, &mut out);
        }
        let padded = out.len().next_multiple_of(self.alignment);
        out.resize(padded, 0);
        out
    }

    /// Bytes of the header, padded to where the data section starts.
    pub fn meta_size(&self) -> usize {
        self.meta_bytes().len()
    }

    /// Writes the whole file. `data` is called for each tensor in order and writes its `size` bytes; padding is added here.
    pub fn write<W: Write>(
        &self,
        out: &mut W,
        mut data: impl FnMut(&TensorInfo, &mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let failed = |e| Error::io("write a GGUF", e);
        out.write_all(&self.meta_bytes()).map_err(failed)?;
        for tensor in self.tensors() {
            let mut counted = Counted { out, n: 0 };
            data(tensor, &mut counted)?;
            if counted.n != tensor.size {
                let reason = format!("{} bytes of data were written, expected {}", counted.n, tensor.size);
                return Err(Error::tensor(tensor.name.clone(), reason));
            }
            let padded = pad(tensor.size, self.alignment).expect("tensors were placed without overflow");
            write_zeros(out, padded - tensor.size).map_err(failed)?;
        }
        Ok(())
    }

    /// The whole file in memory; `data` gives each tensor's bytes.
    pub fn to_bytes<'a>(&self, data: impl Fn(&TensorInfo) -> &'a [u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.write(&mut out, |tensor, out| out.write_all(data(tensor)).map_err(|e| Error::io("write a GGUF", e)))?;
        Ok(out)
    }
}

/// Counts what goes through it.
struct Counted<'a, W> {
    out: &'a mut W,
    n: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.n += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

fn write_string(s: &[u8], out: &mut Vec<u8>) {
    (s.len() as u64).write(out);
    out.extend_from_slice(s);
}

fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::U8(v) => v.write(out),
        Value::I8(v) => v.write(out),
        Value::U16(v) => v.write(out),
        Value::I16(v) => v.write(out),
        Value::U32(v) => v.write(out),
        Value::I32(v) => v.write(out),
        Value::F32(v) => v.write(out),
        Value::Bool(v) => v.write(out),
        Value::U64(v) => v.write(out),
        Value::I64(v) => v.write(out),
        Value::F64(v) => v.write(out),
        Value::String(s) => write_string(s, out),
        Value::Array(a) => {
            (a.element_type() as u32).write(out);
            (a.len() as u64).write(out);
            out.extend_from_slice(a.bytes());
        }
    }
}

fn write_tensor(tensor: &TensorInfo, out: &mut Vec<u8>) {
    write_string(tensor.name.as_bytes(), out);
    (tensor.n_dims as u32).write(out);
    for &n in &tensor.ne[..tensor.n_dims] {
        n.write(out);
    }
    (tensor.dtype as u32).write(out);
    tensor.offset.write(out);
}

fn write_zeros(out: &mut impl Write, n: u64) -> std::io::Result<()> {
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), n), out).map(|_| ())
}
