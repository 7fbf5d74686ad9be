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

    /// Conversion to f32, from the table or, as for q8_K, by its symbol.
    fn dequantizer(&self, f: &Format) -> Option<unsafe extern "C" fn(*const c_void, *mut f32, i64)> {
        // SAFETY: the symbol has this type in ggml-quants.h.
        let symbol = || unsafe { self.0.get(format!("dequantize_row_{}", f.name).as_bytes()).ok().map(|s| *s) };
        self.traits(f.dtype).to_float.or_else(symbol)
    }

    /// Conversion from f32, likewise.
    fn quantizer(&self, f: &Format) -> Option<unsafe extern "C" fn(*const f32, *mut c_void, i64)> {
        // SAFETY: the symbol has this type in ggml-quants.h.
        let symbol = || unsafe { self.0.get(format!("quantize_row_{}_ref", f.name).as_bytes()).ok().map(|s| *s) };
        self.traits(f.dtype).from_float_ref.or_else(symbol)
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

    /// Zeros, constants, then roughly normal values with scales that differ between blocks, and now and then a zero.
    fn floats(&mut self, n: usize) -> Vec<f32> {
        const SCALES: [f32; 16] =
            [1.0, 1e-2, 3e-5, 40.0, 1e-9, 0.0, 700.0, 0.3, 0.02, 0.05, 1e-4, 2.0, 1e-7, 1e-30, 1e9, 5.0];
        let mut scale = 1.0;
        let uniform = |r: u64| (r >> 40) as f32 / (1 << 23) as f32 - 1.0;
        (0..n)
            .map(|i| {
                if i % 32 == 0 {
                    scale = SCALES[self.next() as usize % SCALES.len()];
                }
                let v = (uniform(self.next()) + uniform(self.next()) + uniform(self.next())) * scale;
                match i / 256 {
                    0 => 0.0,
                    1 => 0.7,
                    2 => -0.7,
                    _ if self.next().is_multiple_of(50) => 0.0,
                    _ => v,
                }
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
        let Some(to_float) = reference.dequantizer(f) else { continue };
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
    assert_eq!(n_checked, 28);
}

#[test]
fn quantization_equals_llama_cpp() {
    let reference = Reference::open();
    let mut n_checked = 0;
    for f in &FORMATS {
        let (Some(from_float), Some((x, bytes))) = (reference.quantizer(f), quantized(f)) else {
            continue;
        };
        let mut expected = vec![0u8; bytes.len()];
        // SAFETY: both buffers hold whole blocks for `x.len()` elements.
        unsafe { from_float(x.as_ptr(), expected.as_mut_ptr().cast(), x.len() as i64) };
        if f.dtype == DType::IQ4NL {
            // Of a block of zeros ggml leaves the levels as they were in memory.
            for (block, expected) in bytes.chunks_exact(f.type_size).zip(expected.chunks_exact_mut(f.type_size)) {
                if expected[..2] == [0, 0] {
                    expected[2..].copy_from_slice(&block[2..]);
                }
            }
        }
        if let Some(i) = bytes.iter().zip(&expected).position(|(a, b)| a != b) {
            let block = i / f.type_size;
            let (start, end) = (block * f.type_size, (block + 1) * f.type_size);
            panic!("{}: block {block}\n {:?}, expected\n {:?}", f.name, &bytes[start..end], &expected[start..end]);
        }
        n_checked += 1;
    }
    assert_eq!(n_checked, 22);
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
fn conversions_equal_recorded_ones() {
    for (f, (name, to, from)) in FORMATS.iter().zip(HASHES) {
        assert_eq!(f.name, name);
        assert_eq!(hashes(f), (to, from), "{name}");
    }
}

#[test]
#[ignore = "prints the recorded hashes anew"]
fn print_hashes() {
    for f in &FORMATS {
        let (to, from) = hashes(f);
        println!("    (\"{}\", 0x{to:016x}, 0x{from:016x}),", f.name);
    }
}

/// Of values dequantized from random bytes, and of bytes quantized from random values; 0 where there is no conversion.
fn hashes(f: &Format) -> (u64, u64) {
    let to = dequantized(f).map_or(0, |(_, y)| hash(bytemuck::cast_slice(&bits(&y))));
    let from = quantized(f).map_or(0, |(_, bytes)| hash(&bytes));
    (to, from)
}

/// [`hashes`] of each format when they were found equal to llama.cpp's conversions.
#[rustfmt::skip]
const HASHES: [(&str, u64, u64); FORMATS.len()] = [
    ("f32", 0x84b00c24884253a6, 0xeb1d069cc0dc385a),
    ("f16", 0x3530ead9428d1a1f, 0x40ed49996672c150),
    ("q4_0", 0x3dde11f7450fe2ee, 0x239e05beee7d3459),
    ("q4_1", 0x9ec49bbe79db082e, 0x8ad319482cbbe3a6),
    ("q5_0", 0xdc9b586e6b5111e3, 0xe70d8eb0624b4e87),
    ("q5_1", 0xf7fc8d79f06583a9, 0x820ec81f9b01b510),
    ("q8_0", 0x70941b5b4512e05b, 0x819dc8460d50b661),
    ("q8_1", 0xde3be87250107dfc, 0x402949124431fc96),
    ("q2_K", 0x67017e990724f590, 0xacc9a01988e538e5),
    ("q3_K", 0x20516cd15c454d7e, 0x0ae2a3417ad77d2d),
    ("q4_K", 0xdaeccec214c384fe, 0xb4bb4f2f3f01c813),
    ("q5_K", 0xab0fea4b9650b15a, 0xc7ddc8c5ecb95cd4),
    ("q6_K", 0x4e3944e1bc2724eb, 0xe50fcf91d847e18b),
    ("q8_K", 0x8b626f2ff8930fe6, 0x4570303188eb9514),
    ("iq2_xxs", 0x13981c49e6d8d2dd, 0x0000000000000000),
    ("iq2_xs", 0xa65ce47ec0f7e9ed, 0x0000000000000000),
    ("iq3_xxs", 0x031d3a03648a4ea2, 0x0000000000000000),
    ("iq1_s", 0x6843ce5f0ade84ad, 0x0000000000000000),
    ("iq4_nl", 0x0413edc1dedd28fd, 0xb64facf9c84d1da5),
    ("iq3_s", 0x75e8f3e14c85454d, 0x0000000000000000),
    ("iq2_s", 0xe93412dcb42379bf, 0x0000000000000000),
    ("iq4_xs", 0xf0435dddb4757b26, 0x445479c3cc83c1cf),
    ("i8", 0x0000000000000000, 0x0000000000000000),
    ("i16", 0x0000000000000000, 0x0000000000000000),
    ("i32", 0x0000000000000000, 0x0000000000000000),
    ("i64", 0x0000000000000000, 0x0000000000000000),
    ("f64", 0x0000000000000000, 0x0000000000000000),
    ("iq1_m", 0xce95fa15f8344f99, 0x0000000000000000),
    ("bf16", 0x48f89da531e6aae7, 0xa0effca5978bdf61),
    ("tq1_0", 0xd59cf1e6dada7ac9, 0x07c78835edfe6956),
    ("tq2_0", 0x2787c78188cd65d4, 0xcba4ecc18e3d839b),
    ("mxfp4", 0x9aa166b59e825da4, 0xcd7fcbffe9187b7e),
    ("nvfp4", 0x96a4591ded198edb, 0xc274d812cfea7787),
    ("q1_0", 0xdedce52792be21a5, 0x4cb9f4c1306af478),
    ("q2_0", 0xa3c00730d4d2e7f3, 0xe3951be053bac496),
];
