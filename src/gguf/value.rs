//! Metadata values, their types, and the typed access that `model` and `vocab` use. Strings and arrays borrow the file's
//! bytes, so a vocabulary of 262,144 strings costs one table of offsets.

use super::file::Bytes;
use crate::error::{Error, Result};

/// The types of metadata values, with GGUF's numbers.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // named by `name`
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

const TYPES: [(ValueType, &str, usize); 13] = [
    (ValueType::U8, "u8", 1),
    (ValueType::I8, "i8", 1),
    (ValueType::U16, "u16", 2),
    (ValueType::I16, "i16", 2),
    (ValueType::U32, "u32", 4),
    (ValueType::I32, "i32", 4),
    (ValueType::F32, "f32", 4),
    (ValueType::Bool, "bool", 1),
    (ValueType::String, "str", 0),
    (ValueType::Array, "arr", 0),
    (ValueType::U64, "u64", 8),
    (ValueType::I64, "i64", 8),
    (ValueType::F64, "f64", 8),
];

impl ValueType {
    /// The type with GGUF's number `n`.
    pub fn from_u32(n: u32) -> Option<ValueType> {
        TYPES.get(n as usize).map(|t| t.0)
    }

    /// llama.cpp's short name, e.g. `u32`.
    pub fn name(self) -> &'static str {
        TYPES[self as usize].1
    }

    /// Bytes of one scalar; 0 for strings and arrays.
    pub fn size(self) -> usize {
        TYPES[self as usize].2
    }
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // each holds what it is named after
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Bytes),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// The value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The type as messages name it: `u32`, `arr[str,32000]`.
    pub fn type_name(&self) -> String {
        match self {
            Value::Array(a) => format!("arr[{},{}]", a.element_type().name(), a.len()),
            scalar => scalar.value_type().name().to_string(),
        }
    }

    /// The scalar in `bytes`, which hold exactly [`ValueType::size`] of them; `None` for strings and arrays.
    pub(super) fn scalar(ty: ValueType, bytes: &[u8]) -> Option<Value> {
        Some(match ty {
            ValueType::U8 => Value::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::Bool => Value::Bool(*bytes.first()? != 0),
            ValueType::U64 => Value::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::String | ValueType::Array => return None,
        })
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Value {
        Value::String(s.as_bytes().to_vec().into())
    }
}

/// An array of scalars or strings. (GGUF as llama.cpp reads it has no arrays of arrays.)
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    element_type: ValueType,
    len: usize,
    /// The elements as in the file: scalars back to back, strings each after its 64-bit length.
    bytes: Bytes,
    /// For strings: where in `bytes` each ends.
    ends: Box<[usize]>,
}

impl Array {
    /// `bytes` hold whole scalars of `element_type`, which is not a string or array.
    pub fn scalars(element_type: ValueType, bytes: Bytes) -> Result<Array> {
        match element_type.size() {
            size if size > 0 && bytes.len().is_multiple_of(size) => {
                Ok(Array { element_type, len: bytes.len() / size, bytes, ends: Box::default() })
            }
            _ => Err(Error::argument(format!("{} bytes are no array of {}", bytes.len(), element_type.name()))),
        }
    }

    /// An array of strings.
    pub fn strings<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Array {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for s in strings {
            bytes.extend_from_slice(&(s.as_ref().len() as u64).to_le_bytes());
            bytes.extend_from_slice(s.as_ref());
            ends.push(bytes.len());
        }
        Array { element_type: ValueType::String, len: ends.len(), bytes: bytes.into(), ends: ends.into() }
    }

    /// The strings that end at `ends` in `bytes`: the reader has walked them.
    pub(super) fn walked_strings(bytes: Bytes, ends: Vec<usize>) -> Array {
        Array { element_type: ValueType::String, len: ends.len(), bytes, ends: ends.into() }
    }

    /// The elements back to back, little-endian; `None` for strings.
    pub fn scalar_bytes(&self) -> Option<&[u8]> {
        (self.element_type != ValueType::String).then_some(&*self.bytes)
    }

    /// The elements' type.
    pub fn element_type(&self) -> ValueType {
        self.element_type
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as in the file, little-endian and perhaps unaligned.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// String `i`; `None` past the end or when the elements are not strings.
    pub fn string(&self, i: usize) -> Option<&[u8]> {
        let end = *self.ends.get(i)?;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        self.bytes.get(start + size_of::<u64>()..end)
    }

    /// All strings; nothing when the elements are not strings.
    pub fn iter_strings(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.ends.len()).map(|i| self.string(i).unwrap_or_default())
    }

    /// Scalar `i` as a value; strings are copied.
    pub fn value(&self, i: usize) -> Option<Value> {
        if self.element_type == ValueType::String {
            return Some(Value::String(self.string(i)?.to_vec().into()));
        }
        let size = self.element_type.size();
        Value::scalar(self.element_type, self.bytes.get(i * size..)?.get(..size)?)
    }

    /// The elements converted as llama.cpp does: 32-bit integers serve as each other, booleans as 32-bit integers, other
    /// types must match. `None` when they do not.
    pub fn to_vec<T: FromElement>(&self) -> Option<Vec<T>> {
        if !T::ACCEPTS.contains(&self.element_type) {
            return None;
        }
        if self.element_type == ValueType::Bool {
            return self.bytes.iter().map(|&b| T::from_bytes(&[u8::from(b != 0)])).collect();
        }
        self.bytes.chunks_exact(self.element_type.size()).map(T::from_bytes).collect()
    }
}

/// A scalar that arrays may consist of, by the Rust type that holds it.
pub trait Element: Copy {
    /// Its GGUF type.
    const TYPE: ValueType;
    /// Appends its little-endian bytes.
    fn write(self, out: &mut Vec<u8>);
}

impl<T: Element> From<&[T]> for Array {
    fn from(elements: &[T]) -> Array {
        let mut bytes = Vec::with_capacity(size_of_val(elements));
        for &e in elements {
            e.write(&mut bytes);
        }
        Array { element_type: T::TYPE, len: elements.len(), bytes: bytes.into(), ends: Box::default() }
    }
}

impl<T: Element> From<&[T]> for Value {
    fn from(elements: &[T]) -> Value {
        Value::Array(elements.into())
    }
}

/// What [`Array::to_vec`] can produce.
pub trait FromElement: Sized {
    /// Element types that convert.
    const ACCEPTS: &'static [ValueType];
    /// The element from its little-endian bytes, of which the upper ones may be missing.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

/// What [`super::Gguf::find`] can produce.
pub trait FromValue: Sized {
    /// The GGUF type that the value must have.
    const TYPE: ValueType;
    /// The value, unless its type is another.
    fn from_value(value: &Value) -> Option<Self>;
    /// The override, unless its type is another: integers of any width take integers, floats take floats.
    fn from_override(value: &Override) -> Option<Self>;
}

/// A value that a caller sets over the file's: `llama_model_kv_override`. It counts where a getter asks for the key with a
/// type of its kind, whether or not the file has the key.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // each holds what it is named after
pub enum Override {
    Int(i64),
    Float(f64),
    Bool(bool),
    String(String),
}

impl Override {
    /// llama.cpp's name of the kind.
    pub fn type_name(&self) -> &'static str {
        match self {
            Override::Int(_) => "int",
            Override::Float(_) => "float",
            Override::Bool(_) => "bool",
            Override::String(_) => "str",
        }
    }
}

// The types differ in the variant that holds them, which a generic cannot name.
macro_rules! scalar {
    ($rust:ty, $variant:ident, $kind:ident, [$($accepts:ident),*]) => {
        impl Element for $rust {
            const TYPE: ValueType = ValueType::$variant;
            fn write(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }

        impl From<$rust> for Value {
            fn from(v: $rust) -> Value {
                Value::$variant(v)
            }
        }

        impl FromElement for $rust {
            const ACCEPTS: &'static [ValueType] = &[$(ValueType::$accepts),*];
            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                let mut all = [0; size_of::<$rust>()];
                all.get_mut(..bytes.len())?.copy_from_slice(bytes);
                Some(<$rust>::from_le_bytes(all))
            }
        }

        impl FromValue for $rust {
            const TYPE: ValueType = ValueType::$variant;
            fn from_value(value: &Value) -> Option<Self> {
                if let Value::$variant(v) = value { Some(*v) } else { None }
            }
            fn from_override(value: &Override) -> Option<Self> {
                // Narrowing wraps, as assigning to the C type does.
                if let Override::$kind(v) = value { Some(*v as $rust) } else { None }
            }
        }
    };
}

scalar!(u8, U8, Int, [U8]);
scalar!(i8, I8, Int, [I8]);
scalar!(u16, U16, Int, [U16]);
scalar!(i16, I16, Int, [I16]);
scalar!(u32, U32, Int, [U32, I32, Bool]);
scalar!(i32, I32, Int, [U32, I32, Bool]);
scalar!(u64, U64, Int, [U64]);
scalar!(i64, I64, Int, [I64]);
scalar!(f32, F32, Float, [F32]);
scalar!(f64, F64, Float, [F64]);

impl From<bool> for Value {
    fn from(v: bool) -> Value {
        Value::Bool(v)
    }
}

impl Element for bool {
    const TYPE: ValueType = ValueType::Bool;
    fn write(self, out: &mut Vec<u8>) {
        out.push(u8::from(self));
    }
}

impl FromElement for bool {
    const ACCEPTS: &'static [ValueType] = &[ValueType::Bool];
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.first().map(|&b| b != 0)
    }
}

impl FromValue for bool {
    const TYPE: ValueType = ValueType::Bool;
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Bool(v) = value { Some(*v) } else { None }
    }
    fn from_override(value: &Override) -> Option<Self> {
        if let Override::Bool(v) = value { Some(*v) } else { None }
    }
}

impl FromValue for String {
    const TYPE: ValueType = ValueType::String;
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::String(v) = value { Some(String::from_utf8_lossy(v).into_owned()) } else { None }
    }
    fn from_override(value: &Override) -> Option<Self> {
        if let Override::String(v) = value { Some(v.clone()) } else { None }
    }
}
