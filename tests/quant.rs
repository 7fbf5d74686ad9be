//! Block formats against llama.cpp's own library, bit for bit, and against recorded hashes where that library is absent.

use infer::quant::{self, DType, FORMATS, Format};
use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;

/// Blocks per type: with 256 elements each, every field of every layout takes most of its values.
const N_BLOCKS: usize = 2000;

/// `ggml_type_traits` of ggml.h.
#[repr(C)]
struct TypeTraits {
    type_name: *const c_char,
    blck_size: i64,
    blck_size_interleave: i64,
    type_size: usize,
    is_quantized: bool,
    to_float: Option<unsafe extern "C" fn(*const c_void, *mut f32, i64)>,
    from_float_ref: Option<unsafe extern "C" fn(*const f32, *mut c_void, i64)>,
}

/// llama.cpp's libggml-base.
struct Reference(libloading::Library);

impl Reference {
    fn open() -> Reference {
        let data = std::env::var_os("INFER_TEST_DATA").unwrap_or_else(|| "target/test-data".into());
        let path = PathBuf::from(data).join("reference/libggml-base.so");
        // SAFETY: the library's initialisers have no preconditions.
        let library = unsafe { libloading::Library::new(&path) };
        Reference(library.unwrap_or_else(|e| panic!("{e}; run `make test-data` to fetch {}", path.display())))
    }

    fn traits(&self, dtype: DType) -> &TypeTraits {
        // SAFETY: the symbol has this type in ggml.h; it returns a row of a static table for every type number.
        unsafe {
            let get = self.0.get::<unsafe extern "C" fn(u32) -> *const TypeTraits>(b"ggml_get_type_traits").unwrap();
            &*get(dtype as u32)
        }
    }

    fn is_valid(&self, dtype: DType, bytes: &[u8]) -> bool {
        // SAFETY: the symbol has this type in ggml.h; it reads `bytes.len()` bytes.
        unsafe {
            let validate = self
                .0
                .get::<unsafe extern "C" fn(u32, *const c_void, usize) -> bool>(b"ggml_validate_row_data")
                .unwrap();
            validate(dtype as u32, bytes.as_ptr().cast(), bytes.len())
        }
    }
}

/// A seeded stream (splitmix64): the recorded hashes depend on it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// Roughly normal, with scales that differ between blocks, and now and then a zero.
    fn floats(&mut self, n: usize) -> Vec<f32> {
        let mut scale = 1.0;
        let uniform = |r: u64| (r >> 40) as f32 / (1 << 23) as f32 - 1.0;
        (0..n)
            .map(|i| {
                if i % 32 == 0 {
                    scale = [1.0, 1e-2, 3e-5, 40.0, 1e-9, 0.0, 700.0, 0.3][self.next() as usize % 8];
                }
                let v = (uniform(self.next()) + uniform(self.next()) + uniform(self.next())) * scale;
                if self.next() % 50 == 0 { 0.0 } else { v }
            })
            .collect()
    }
}

/// Bits with all NaNs made equal: which payload and sign an operation on NaN yields is up to the compiler.
fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|v| if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() }).collect()
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

fn dequantized(f: &Format) -> Option<(Vec<u8>, Vec<f32>)> {
    let n_blocks = if f.is_quantized { N_BLOCKS } else { 65536 };
    let bytes = Random(f.dtype as u64).bytes(n_blocks * f.type_size);
    let mut y = vec![0.0; n_blocks * f.block_size];
    quant::dequantize(f.dtype, &bytes, &mut y).ok()?;
    Some((bytes, y))
}

fn quantized(f: &Format) -> Option<(Vec<f32>, Vec<u8>)> {
    let x = Random(f.dtype as u64 + 100).floats(N_BLOCKS * f.block_size);
    let mut bytes = vec![0; N_BLOCKS * f.type_size];
    quant::quantize(f.dtype, &x, &mut bytes).ok()?;
    Some((x, bytes))
}

#[test]
fn table_equals_llama_cpp() {
    let reference = Reference::open();
    for f in &FORMATS {
        let traits = reference.traits(f.dtype);
        // SAFETY: the name of a known type is a C string in static memory.
        let name = unsafe { CStr::from_ptr(traits.type_name) };
        assert_eq!(f.name, name.to_str().unwrap());
        assert_eq!(f.block_size as i64, traits.blck_size, "{}", f.name);
        assert_eq!(f.type_size, traits.type_size, "{}", f.name);
        assert_eq!(f.is_quantized, traits.is_quantized, "{}", f.name);
    }
}

#[test]
fn dequantization_equals_llama_cpp() {
    let reference = Reference::open();
    let mut n_checked = 0;
    for f in &FORMATS {
        let Some(to_float) = reference.traits(f.dtype).to_float else { continue };
        let (bytes, y) = dequantized(f).unwrap_or_else(|| panic!("{} cannot be dequantized", f.name));
        let mut expected = vec![0.0; y.len()];
        // SAFETY: both buffers hold whole blocks for `y.len()` elements.
        unsafe { to_float(bytes.as_ptr().cast(), expected.as_mut_ptr(), y.len() as i64) };
        let differing = bits(&y).iter().zip(bits(&expected)).position(|(a, b)| *a != b);
        if let Some(i) = differing {
            panic!("{}: element {i} is {}, expected {}", f.name, y[i], expected[i]);
        }
        n_checked += 1;
    }
    assert_eq!(n_checked, 27);
}

#[test]
fn quantization_equals_llama_cpp() {
    let reference = Reference::open();
    for f in &FORMATS {
        let (Some(from_float), Some((x, bytes))) = (reference.traits(f.dtype).from_float_ref, quantized(f)) else {
            continue;
        };
        let mut expected = vec![0u8; bytes.len()];
        // SAFETY: both buffers hold whole blocks for `x.len()` elements.
        unsafe { from_float(x.as_ptr(), expected.as_mut_ptr().cast(), x.len() as i64) };
        if let Some(i) = bytes.iter().zip(&expected).position(|(a, b)| a != b) {
            let block = i / f.type_size;
            let (start, end) = (block * f.type_size, (block + 1) * f.type_size);
            panic!("{}: block {block}\n {:?}, expected\n {:?}", f.name, &bytes[start..end], &expected[start..end]);
        }
    }
}

#[test]
fn validation_equals_llama_cpp() {
    let reference = Reference::open();
    for f in &FORMATS {
        let mut random = Random(f.dtype as u64 + 200);
        for _ in 0..100 {
            let bytes = random.bytes(f.type_size);
            assert_eq!(quant::validate(f.dtype, &bytes), reference.is_valid(f.dtype, &bytes), "{}: {bytes:?}", f.name);
        }
    }
}

#[test]
#[ignore = "prints the recorded hashes anew"]
fn print_hashes() {
    for f in &FORMATS {
        let to = dequantized(f).map_or(0, |(_, y)| hash(bytemuck::cast_slice(&bits(&y))));
        let from = quantized(f).map_or(0, |(_, bytes)| hash(&bytes));
        println!("    (\"{}\", 0x{to:016x}, 0x{from:016x}),", f.name);
    }
}
