//! The header of a GGUF: parsing with every number checked, lookup of metadata and tensors, and editing for writers.

use super::file::{Bytes, Storage};
use super::value::{Array, FromElement, FromValue, Override, Value, ValueType};
use crate::error::{Error, Result};
use crate::quant::DType;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Alignment of tensor data where `general.alignment` says nothing.
pub const DEFAULT_ALIGNMENT: usize = 32;

/// Tensor names are shorter than this (ggml keeps them in 64 bytes with a NUL).
pub const MAX_TENSOR_NAME: usize = 64;

pub(super) const MAGIC: [u8; 4] = *b"GGUF";
pub(super) const VERSION: u32 = 3;
pub(super) const KEY_ALIGNMENT: &str = "general.alignment";

const MAX_DIMS: usize = 4;

/// A tensor as the header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, unique in the model.
    pub name: String,
    /// The elements' type.
    pub dtype: DType,
    /// Elements per dimension, fastest first; unused ones are 1.
    pub ne: [u64; 4],
    /// How many dimensions there are up to the last one above 1; at least 1, as ggml counts.
    pub n_dims: usize,
    /// Where the data starts, from the start of the data section.
    pub offset: u64,
    /// Bytes of data.
    pub size: u64,
}

impl TensorInfo {
    /// A tensor without a place yet. Fails when the name is too long, a dimension is 0, rows are not whole blocks, or the
    /// size overflows.
    pub fn new(name: impl Into<String>, dtype: DType, ne: &[u64]) -> Result<TensorInfo> {
        let name = name.into();
        let fail = |reason: String| Err(Error::tensor(name.clone(), reason));
        if name.len() >= MAX_TENSOR_NAME {
            return fail(format!("the name has {} bytes, at most {} are allowed", name.len(), MAX_TENSOR_NAME - 1));
        }
        if ne.len() > MAX_DIMS {
            return fail(format!("{} dimensions, at most {MAX_DIMS} are supported", ne.len()));
        }
        if ne.iter().any(|&n| n == 0 || n > i64::MAX as u64) {
            return fail(format!("shape {ne:?} has a dimension that is zero or negative"));
        }
        let mut shape = [1; MAX_DIMS];
        shape[..ne.len()].copy_from_slice(ne);
        let block_size = dtype.block_size() as u64;
        if !shape[0].is_multiple_of(block_size) {
            return fail(format!("rows of {} elements are not whole blocks of {block_size} ({dtype})", shape[0]));
        }
        let n_elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n <= i64::MAX as u64);
        let size = n_elements.and_then(|n| (n / block_size).checked_mul(dtype.type_size() as u64));
        let Some(size) = size.filter(|&s| s <= i64::MAX as u64) else {
            return fail(format!("shape {ne:?} of {dtype} is too large"));
        };
        let n_dims = shape.iter().rposition(|&n| n > 1).unwrap_or(0) + 1;
        Ok(TensorInfo { name, dtype, ne: shape, n_dims, offset: 0, size })
    }

    /// How many elements.
    pub fn n_elements(&self) -> u64 {
        self.ne.iter().product()
    }
}

/// The header of a GGUF: metadata and tensor descriptions.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// The format's version, 2 or 3.
    pub version: u32,
    /// Tensor data starts at multiples of this, a power of two.
    pub alignment: usize,
    /// Where the data section starts, from the start of the storage's bytes.
    pub data_offset: u64,
    name: String,
    kv: Vec<(String, Value)>,
    key_index: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    tensor_index: HashMap<String, usize>,
    overrides: HashMap<String, Override>,
}

impl Default for Gguf {
    fn default() -> Gguf {
        Gguf::new()
    }
}

impl Gguf {
    /// An empty header, to be filled and written.
    pub fn new() -> Gguf {
        Gguf {
            version: VERSION,
            alignment: DEFAULT_ALIGNMENT,
            data_offset: 0,
            name: "memory".into(),
            kv: Vec::new(),
            key_index: HashMap::new(),
            tensors: Vec::new(),
            tensor_index: HashMap::new(),
            overrides: HashMap::new(),
        }
    }

    /// Parses the header that starts at byte `start`. Strings and arrays borrow `storage`. That the data section is all
    /// there is for [`Gguf::check_data`] to say, as files with metadata alone are legitimate.
    pub fn parse(storage: &Arc<Storage>, start: usize) -> Result<Gguf> {
        let mut gguf = Gguf { name: storage.name().to_string(), ..Gguf::new() };
        let mut cursor = Cursor { storage, at: start };
        let n_tensors;
        let n_kv;
        (gguf.version, n_tensors, n_kv) = read_head(&mut cursor)?;
        for _ in 0..n_kv {
            gguf.read_kv(&mut cursor)?;
        }
        gguf.read_alignment()?;
        let mut offset = 0;
        for _ in 0..n_tensors {
            offset = gguf.read_tensor(&mut cursor, offset)?;
        }
        // The padding counts from the start of the GGUF, which may lie anywhere in a larger file.
        let header = (cursor.at - start) as u64;
        gguf.data_offset = cursor.at as u64;
        if n_tensors > 0 {
            gguf.data_offset = start as u64 + pad(header, gguf.alignment).unwrap_or(u64::MAX - start as u64);
            if gguf.data_offset > storage.bytes().len() as u64 {
                return Err(gguf.truncated("the data section", gguf.data_offset, storage));
            }
        }
        Ok(gguf)
    }

    /// Parses a GGUF in memory.
    pub fn from_bytes(bytes: &[u8]) -> Result<Gguf> {
        Gguf::parse(&Arc::new(Storage::from_bytes(bytes, "memory")?), 0)
    }

    /// Fails when a tensor's data lies beyond the end of `storage`, e.g. of a file whose download stopped.
    pub fn check_data(&self, storage: &Storage) -> Result<()> {
        for tensor in &self.tensors {
            // Neither sum overflows: `read_tensor` keeps the whole data section below i64::MAX, `parse` the offset too.
            let end = self.data_offset + tensor.offset + tensor.size;
            if end > storage.bytes().len() as u64 {
                return Err(self.truncated(&format!("tensor '{}'", tensor.name), end, storage));
            }
        }
        Ok(())
    }

    /// The file's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of `key` as the file has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.key_index.get(key).map(|&i| &self.kv[i].1)
    }

    /// All keys with their values, in the file's order.
    pub fn kv(&self) -> &[(String, Value)] {
        &self.kv
    }

    /// The index of `key` in [`Gguf::kv`].
    pub fn find_key(&self, key: &str) -> Option<usize> {
        self.key_index.get(key).copied()
    }

    /// The tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.find_tensor(name).map(|i| &self.tensors[i])
    }

    /// The index of the tensor called `name` in [`Gguf::tensors`].
    pub fn find_tensor(&self, name: &str) -> Option<usize> {
        self.tensor_index.get(name).copied()
    }

    /// The value of `key` when there is one: an override of a fitting kind, else the file's. A value of another type is an
    /// error, as in llama.cpp: `u32` does not serve where `i32` is asked for.
    pub fn find<T: FromValue>(&self, key: &str) -> Result<Option<T>> {
        if let Some(value) = self.overrides.get(key) {
            if let Some(v) = T::from_override(value) {
                log::info!("'{key}' is overridden with {value:?}");
                return Ok(Some(v));
            }
            log::warn!("the override of '{key}' is ignored: {} expected, {} given", T::TYPE.name(), value.type_name());
        }
        let Some(value) = self.get(key) else { return Ok(None) };
        match T::from_value(value) {
            Some(v) => Ok(Some(v)),
            None => Err(self.wrong_type(key, T::TYPE.name(), value)),
        }
    }

    /// As [`Gguf::find`], where the key must be there.
    pub fn require<T: FromValue>(&self, key: &str) -> Result<T> {
        self.find(key)?.ok_or_else(|| self.missing(key))
    }

    /// The bytes of the string `key`, perhaps not UTF-8.
    pub fn find_string(&self, key: &str) -> Result<Option<&[u8]>> {
        if let Some(Override::String(s)) = self.overrides.get(key) {
            return Ok(Some(s.as_bytes()));
        }
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(value) => Err(self.wrong_type(key, "str", value)),
        }
    }

    /// The array `key`.
    pub fn find_array(&self, key: &str) -> Result<Option<&Array>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(a)) => Ok(Some(a)),
            Some(value) => Err(self.wrong_type(key, "arr", value)),
        }
    }

    /// The elements of the array `key`; see [`Array::to_vec`] for the types that serve.
    pub fn find_vec<T: FromElement>(&self, key: &str) -> Result<Option<Vec<T>>> {
        let Some(array) = self.find_array(key)? else { return Ok(None) };
        match array.to_vec() {
            Some(v) => Ok(Some(v)),
            None => {
                let expected = T::ACCEPTS.iter().map(|t| t.name()).collect::<Vec<_>>().join(" or ");
                Err(self.wrong_type(key, &format!("arr of {expected}"), &Value::Array(array.clone())))
            }
        }
    }

    /// The array `key` of exactly `n` elements, or a scalar repeated `n` times: how files give values per layer.
    pub fn find_per_layer<T>(&self, key: &str, n: usize) -> Result<Option<Vec<T>>>
    where
        T: FromValue + FromElement + Clone,
    {
        let Some(Value::Array(array)) = self.get(key) else {
            return Ok(self.find::<T>(key)?.map(|v| vec![v; n]));
        };
        if array.len() != n {
            return Err(Error::format(format!("'{}': '{key}' has {} elements, expected {n}", self.name, array.len())));
        }
        self.find_vec(key)
    }

    /// Sets `value` over the file's value of `key` for [`Gguf::find`] and what builds on it. The first one of a key counts.
    pub fn set_override(&mut self, key: impl Into<String>, value: Override) {
        self.overrides.entry(key.into()).or_insert(value);
    }

    /// What [`Gguf::set_override`] set, by key.
    pub fn overrides(&self) -> Vec<(&str, &Override)> {
        let mut all: Vec<_> = self.overrides.iter().map(|(key, value)| (key.as_str(), value)).collect();
        all.sort_by_key(|(key, _)| *key);
        all
    }

    /// Sets a value; one that was there goes, and the new one stands last, as in llama.cpp's files. `general.alignment` must be a u32 and a power of two, and moves the tensors.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Result<()> {
        let (key, value) = (key.into(), value.into());
        if key.is_empty() {
            return Err(Error::argument("a key is empty"));
        }
        if key == KEY_ALIGNMENT {
            self.alignment = self.check_alignment(&value)?;
            self.place_tensors()?;
        }
        self.remove(&key);
        self.key_index.insert(key.clone(), self.kv.len());
        self.kv.push((key, value));
        Ok(())
    }

    /// Removes `key`; returns the index that it had. (The alignment stays, as tensors are placed by it.)
    pub fn remove(&mut self, key: &str) -> Option<usize> {
        let i = self.key_index.remove(key)?;
        self.kv.remove(i);
        for index in self.key_index.values_mut().filter(|index| **index > i) {
            *index -= 1;
        }
        Some(i)
    }

    /// Adds a tensor behind the others. Fails when the name is taken.
    pub fn add_tensor(&mut self, info: TensorInfo) -> Result<()> {
        if self.tensor_index.contains_key(&info.name) {
            return Err(Error::tensor(info.name, format!("'{}' has it twice", self.name)));
        }
        let placed = TensorInfo { offset: self.data_size(), ..info };
        next_offset(&placed, self.alignment)?;
        self.tensor_index.insert(placed.name.clone(), self.tensors.len());
        self.tensors.push(placed);
        Ok(())
    }

    /// Changes the type of a tensor, and with it its size and the place of those behind it.
    pub fn set_tensor_type(&mut self, name: &str, dtype: DType) -> Result<()> {
        let i = self.find_tensor(name).ok_or_else(|| Error::tensor(name, "not in the file"))?;
        let old = &self.tensors[i];
        self.tensors[i] = TensorInfo::new(name, dtype, &old.ne[..old.n_dims])?;
        self.place_tensors()
    }

    /// Bytes of the data section, padding included.
    pub fn data_size(&self) -> u64 {
        self.tensors.last().map_or(0, |t| pad(t.offset + t.size, self.alignment).unwrap_or(u64::MAX))
    }

    /// Lays the tensors one behind the other.
    fn place_tensors(&mut self) -> Result<()> {
        let mut offset = 0;
        for tensor in &mut self.tensors {
            tensor.offset = offset;
            offset = next_offset(tensor, self.alignment)?;
        }
        Ok(())
    }

    fn read_kv(&mut self, cursor: &mut Cursor) -> Result<()> {
        let key = cursor.name("a key")?;
        if key.is_empty() {
            return Err(cursor.error("a key is empty"));
        }
        let value = cursor.value(&key)?;
        if self.key_index.insert(key.clone(), self.kv.len()).is_some() {
            return Err(cursor.error(format!("key '{key}' occurs twice")));
        }
        self.kv.push((key, value));
        Ok(())
    }

    fn read_alignment(&mut self) -> Result<()> {
        if let Some(value) = self.get(KEY_ALIGNMENT) {
            self.alignment = self.check_alignment(value)?;
        }
        Ok(())
    }

    fn check_alignment(&self, value: &Value) -> Result<usize> {
        match *value {
            Value::U32(n) if n.is_power_of_two() => Ok(n as usize),
            Value::U32(n) => Err(Error::format(format!("'{}': {KEY_ALIGNMENT} {n} is not a power of two", self.name))),
            ref other => Err(self.wrong_type(KEY_ALIGNMENT, "u32", other)),
        }
    }

    /// Reads a tensor that must lie at `offset`; returns where the next one must lie.
    fn read_tensor(&mut self, cursor: &mut Cursor, offset: u64) -> Result<u64> {
        let name = cursor.name("a tensor's name")?;
        let n_dims = cursor.u32("a tensor's dimensions")? as usize;
        if n_dims > MAX_DIMS {
            return Err(Error::tensor(name, format!("{n_dims} dimensions, at most {MAX_DIMS} are supported")));
        }
        let mut ne = [1; MAX_DIMS];
        for n in &mut ne[..n_dims] {
            *n = cursor.u64("a tensor's shape")?;
        }
        let number = cursor.u32("a tensor's type")?;
        let Some(dtype) = DType::from_u32(number) else {
            return Err(Error::tensor(name, format!("type {number} is unknown or no longer supported")));
        };
        let mut info = TensorInfo::new(name, dtype, &ne[..n_dims])?;
        info.offset = cursor.u64("a tensor's offset")?;
        if info.offset != offset {
            return Err(Error::tensor(info.name, format!("data at offset {}, expected {offset}", info.offset)));
        }
        let next = next_offset(&info, self.alignment)?;
        if self.tensor_index.insert(info.name.clone(), self.tensors.len()).is_some() {
            return Err(Error::tensor(info.name, format!("'{}' has it twice", self.name)));
        }
        self.tensors.push(info);
        Ok(next)
    }

    fn wrong_type(&self, key: &str, expected: &str, found: &Value) -> Error {
        Error::format(format!("'{}': '{key}' is {}, expected {expected}", self.name, found.type_name()))
    }

    pub(super) fn missing(&self, key: &str) -> Error {
        Error::format(format!("'{}' has no key '{key}'", self.name))
    }

    fn truncated(&self, what: &str, end: u64, storage: &Storage) -> Error {
        let len = storage.bytes().len();
        Error::format(format!("'{}' is truncated: {what} ends at byte {end}, the file at {len}", self.name))
    }
}

/// `n` rounded up to a multiple of `alignment`, a power of two.
pub(super) fn pad(n: u64, alignment: usize) -> Option<u64> {
    n.checked_next_multiple_of(alignment as u64)
}

/// Where the data behind `tensor` starts; half the range of u64 is left for sums with file offsets.
fn next_offset(tensor: &TensorInfo, alignment: usize) -> Result<u64> {
    tensor
        .offset
        .checked_add(tensor.size)
        .and_then(|end| pad(end, alignment))
        .filter(|&end| end <= i64::MAX as u64)
        .ok_or_else(|| Error::tensor(tensor.name.clone(), "the data section becomes too large"))
}

/// Magic, version and counts: (version, n_tensors, n_kv).
fn read_head(cursor: &mut Cursor) -> Result<(u32, u64, u64)> {
    let magic = cursor.take(4, "the magic number")?;
    let magic = &cursor.storage.bytes()[magic];
    if magic != MAGIC {
        return Err(cursor.error(format!("no GGUF: it starts with '{}'", magic.escape_ascii())));
    }
    let version = cursor.u32("the version")?;
    if version & 0xffff == 0 {
        return Err(cursor.error("a big-endian file, only little-endian ones are supported"));
    }
    if !(2..=VERSION).contains(&version) {
        return Err(cursor.error(format!("version {version}, supported are 2 and {VERSION}")));
    }
    let n_tensors = cursor.u64("the number of tensors")?;
    let n_kv = cursor.u64("the number of keys")?;
    // The least that a tensor and a key take; a larger count would only make the loop end later.
    let room = (cursor.storage.bytes().len() - cursor.at) as u64;
    if n_tensors > room / 24 || n_kv > room / 13 {
        return Err(cursor.error(format!("{n_tensors} tensors and {n_kv} keys do not fit the file")));
    }
    Ok((version, n_tensors, n_kv))
}

/// A place in a file.
struct Cursor<'a> {
    storage: &'a Arc<Storage>,
    at: usize,
}

impl Cursor<'_> {
    fn error(&self, reason: impl std::fmt::Display) -> Error {
        Error::format(format!("'{}': {reason}", self.storage.name()))
    }

    /// The next `n` bytes, as a range of the storage.
    fn take(&mut self, n: u64, what: &str) -> Result<Range<usize>> {
        let len = self.storage.bytes().len();
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n)).filter(|&end| end <= len);
        let Some(end) = end else {
            return Err(self.error(format!("truncated: {what} needs {n} bytes at {}, the file has {len}", self.at)));
        };
        Ok(std::mem::replace(&mut self.at, end)..end)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let range = self.take(N as u64, what)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.storage.bytes()[range]);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str) -> Result<Range<usize>> {
        let len = self.u64(what)?;
        self.take(len, what)
    }

    fn name(&mut self, what: &str) -> Result<String> {
        let range = self.string(what)?;
        match std::str::from_utf8(&self.storage.bytes()[range]) {
            Ok(name) => Ok(name.to_string()),
            Err(_) => Err(self.error(format!("{what} is not UTF-8"))),
        }
    }

    fn bytes(&self, range: Range<usize>) -> Bytes {
        Bytes::new(self.storage, range).expect("take() returned a range inside the storage")
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType> {
        let number = self.u32(key)?;
        ValueType::from_u32(number).ok_or_else(|| self.error(format!("'{key}' has the unknown type {number}")))
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        let ty = self.value_type(key)?;
        match ty {
            ValueType::String => {
                let range = self.string(key)?;
                Ok(Value::String(self.bytes(range)))
            }
            ValueType::Array => self.array_value(key).map(Value::Array),
            scalar => {
                let range = self.take(scalar.size() as u64, key)?;
                let bytes = &self.storage.bytes()[range];
                Ok(Value::scalar(scalar, bytes).expect("strings and arrays are handled above, the size fits"))
            }
        }
    }

    fn array_value(&mut self, key: &str) -> Result<Array> {
        let element_type = self.value_type(key)?;
        let n = self.u64(key)?;
        match element_type {
            ValueType::Array => Err(self.error(format!("'{key}' is an array of arrays, which is not supported"))),
            ValueType::String => {
                let start = self.at;
                let mut ends = Vec::new();
                for _ in 0..n {
                    ends.push(self.string(key)?.end - start);
                }
                Ok(Array::walked_strings(self.bytes(start..self.at), ends))
            }
            scalar => {
                let size = n.saturating_mul(scalar.size() as u64);
                let range = self.take(size, key)?;
                Array::scalars(scalar, self.bytes(range))
            }
        }
    }
}
