//! Writes a loaded model to a file: `llama_model_save_to_file`.

use super::Model;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Override, TargetFile, Value};
use std::io::{BufWriter, Write};
use std::path::Path;

impl Model {
    /// Writes metadata, as overridden, and all tensors to one file, which appears when it is complete.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut gguf = Gguf::new();
        for (key, value) in self.files.meta().kv() {
            gguf.set(key.as_str(), value.clone())?;
        }
        for (key, value) in self.files.meta().overrides() {
            let value = typed(value, gguf.get(key));
            gguf.set(key, value)?;
        }
        for key in ["split.no", "split.count", "split.tensors.count"] {
            gguf.remove(key);
        }
        for info in self.files.tensors() {
            gguf.add_tensor(info.clone())?;
        }
        let mut target = TargetFile::create(path.to_owned())?;
        let mut out = BufWriter::new(target.file());
        gguf.write(&mut out, |info, out| {
            let view = self.files.view(&info.name);
            let view = view.ok_or_else(|| Error::tensor(&info.name, "its data was not loaded"))?;
            out.write_all(view.bytes).map_err(|e| Error::io(format!("write '{}'", path.display()), e))
        })?;
        out.flush().map_err(|e| Error::io(format!("write '{}'", path.display()), e))?;
        drop(out);
        target.finish()
    }
}

/// An override in the type of the value that it replaces, if it fits; where there was none, in that which most keys have.
fn typed(value: &Override, old: Option<&Value>) -> Value {
    match (value, old) {
        (Override::Int(v), Some(Value::U8(_))) => (*v as u8).into(),
        (Override::Int(v), Some(Value::I8(_))) => (*v as i8).into(),
        (Override::Int(v), Some(Value::U16(_))) => (*v as u16).into(),
        (Override::Int(v), Some(Value::I16(_))) => (*v as i16).into(),
        (Override::Int(v), Some(Value::I32(_))) => (*v as i32).into(),
        (Override::Int(v), Some(Value::U64(_))) => (*v as u64).into(),
        (Override::Int(v), Some(Value::I64(_))) => (*v).into(),
        (Override::Int(v), _) => (*v as u32).into(),
        (Override::Float(v), Some(Value::F64(_))) => (*v).into(),
        (Override::Float(v), _) => (*v as f32).into(),
        (Override::Bool(v), _) => (*v).into(),
        (Override::String(v), _) => v.as_str().into(),
    }
}
