//! Rounding of rows with and without an importance matrix against `ggml_quantize_chunk` of llama.cpp's library, byte for
//! byte, and what it does with values that make no sense.

use infer::quant::{self, DType, FORMATS};
use std::ffi::c_void;
use std::path::PathBuf;
use std::time::Instant;

type QuantizeChunk = unsafe extern "C" fn(u32, *const f32, *mut c_void, i64, i64, i64, *const f32) -> usize;

const N_PER_ROW: usize = 1024;
const N_ROWS: usize = 48;

fn reference() -> libloading::Library {
    let data = std::env::var_os("INFER_TEST_DATA").unwrap_or_else(|| "target/test-data".into());
    let path = PathBuf::from(data).join("reference/libggml-base.so");
    // SAFETY: the library's initialisers have no preconditions.
    let library = unsafe { libloading::Library::new(&path) };
    library.unwrap_or_else(|e| panic!("{e}; run `make test-data` to fetch {}", path.display()))
}

/// Roughly normal values (the sum of four uniforms) of a seed.
fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| uniform() + uniform() + uniform() + uniform()).collect()
}

/// Rows as models have them: scales differ by row and by column, a few elements stand out, some blocks are zero.
fn rows() -> Vec<f32> {
    let columns = normal(3, N_PER_ROW);
    let mut x = normal(1, N_PER_ROW * N_ROWS);
    for (i, v) in x.iter_mut().enumerate() {
        let (row, column) = (i / N_PER_ROW, i % N_PER_ROW);
        *v *= 0.02 * (1.0 + row as f32 / 16.0) * columns[column].exp();
        if i % 571 == 0 {
            *v *= 12.0;
        }
        if row == 7 && column < 512 || row == 9 && column / 32 == 3 || row == 11 && column / 16 == 5 {
            *v = 0.0;
        }
        if row == 13 {
            *v = v.abs();
        }
        if row == 14 {
            *v = -0.25;
        }
        if row == 15 {
            *v *= 1e-7;
        }
    }
    x
}

fn importance() -> Vec<f32> {
    let mut w: Vec<f32> = normal(2, N_PER_ROW).iter().map(|v| (1.5 * v).exp()).collect();
    w[300..340].fill(0.0);
    w[512..768].fill(0.0);
    w
}

fn types() -> impl Iterator<Item = DType> {
    let skipped = |f: &quant::Format| {
        matches!(f.dtype, DType::Q8_1 | DType::Q8K | DType::F64) || f.name.starts_with('i') && !f.name.starts_with("iq")
    };
    FORMATS.iter().filter(move |f| !skipped(f)).map(|f| f.dtype)
}

/// Root of the weighted mean square error.
fn error(dtype: DType, x: &[f32], bytes: &[u8], importance: Option<&[f32]>) -> f64 {
    let mut y = vec![0.0; x.len()];
    quant::dequantize(dtype, bytes, &mut y).unwrap();
    let (mut sum, mut total) = (0.0, 0.0);
    for (i, (x, y)) in x.iter().zip(&y).enumerate() {
        let w = importance.map_or(1.0, |w| f64::from(w[i % N_PER_ROW]));
        sum += w * f64::from(x - y).powi(2);
        total += w;
    }
    (sum / total).sqrt()
}

#[test]
fn rows_equal_those_of_llama_cpp() {
    let library = reference();
    // SAFETY: the symbol has this type in ggml.h.
    let chunk = unsafe { *library.get::<QuantizeChunk>(b"ggml_quantize_chunk").unwrap() };
    let (x, importance) = (rows(), importance());
    let mut wrong = Vec::new();
    println!("{:8} {:>10} {:>12} {:>12} {:>8} {:>8}", "type", "", "rmse", "llama.cpp", "ratio", "time");
    for dtype in types() {
        for weights in [None, Some(&importance[..])] {
            if weights.is_none() && quant::requires_importance(dtype) {
                continue;
            }
            let (mut ours, mut theirs) = (vec![0; dtype.row_size(x.len())], vec![0; dtype.row_size(x.len())]);
            // Once to make the tables of codebooks.
            quant::quantize_rows(dtype, &x[..N_PER_ROW], N_PER_ROW, weights, &mut ours[..dtype.row_size(N_PER_ROW)])
                .unwrap();
            let start = Instant::now();
            quant::quantize_rows(dtype, &x, N_PER_ROW, weights, &mut ours).unwrap();
            let time = start.elapsed();
            let w = weights.map_or(std::ptr::null(), <[f32]>::as_ptr);
            let mut run = |n_rows: usize| {
                // SAFETY: rows, result and weights are as large as the numbers say.
                let size = unsafe {
                    chunk(dtype as u32, x.as_ptr(), theirs.as_mut_ptr().cast(), 0, n_rows as i64, N_PER_ROW as i64, w)
                };
                assert_eq!(size, dtype.row_size(N_PER_ROW) * n_rows);
            };
            run(1);
            let start = Instant::now();
            run(N_ROWS);
            let their_time = start.elapsed();
            let (e, r) = (error(dtype, &x, &ours, weights), error(dtype, &x, &theirs, weights));
            let kind = if weights.is_some() { "importance" } else { "" };
            println!(
                "{:8} {kind:>10} {e:12.6e} {r:12.6e} {:8.4} {:8.2}",
                dtype.name(),
                if e == r { 1.0 } else { e / r },
                time.as_secs_f64() / their_time.as_secs_f64()
            );
            if ours != theirs {
                let size = dtype.type_size();
                let differ = ours.chunks(size).zip(theirs.chunks(size)).filter(|(a, b)| a != b).count();
                let first = ours.chunks(size).zip(theirs.chunks(size)).position(|(a, b)| a != b).unwrap();
                // After a sub-block of zeros llama.cpp shifts the rest of an iq3_s block; row 9 has such a one.
                if dtype != DType::IQ3S || (differ, first) != (1, 9 * N_PER_ROW / 256) || e > r {
                    let n = ours.len() / size;
                    wrong.push(format!("{dtype} {kind}: {differ} of {n} blocks differ, first {first}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nonsense_is_rounded_without_a_panic() {
    let mut x = normal(5, N_PER_ROW);
    for (i, v) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-45, -0.0].into_iter().enumerate()
    {
        x[i * 131] = v;
        x[i * 67 + 500] = v;
    }
    let constants = [f32::NAN, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-40].map(|v| vec![v; N_PER_ROW]);
    let weights = [vec![1.0; N_PER_ROW], vec![0.0; N_PER_ROW], vec![-1.0; N_PER_ROW], vec![f32::NAN; N_PER_ROW]];
    for x in constants.iter().chain([&x]) {
        for w in &weights {
            for dtype in types() {
                let mut bytes = vec![0; dtype.row_size(N_PER_ROW)];
                quant::quantize_rows(dtype, x, N_PER_ROW, Some(w), &mut bytes).unwrap();
                if !quant::requires_importance(dtype) {
                    quant::quantize_rows(dtype, x, N_PER_ROW, None, &mut bytes).unwrap();
                }
            }
        }
    }
}

#[test]
fn wrong_arguments_are_errors() {
    let x = vec![0.0; 256];
    for dtype in types() {
        let mut bytes = vec![0; dtype.row_size(256)];
        let w = vec![1.0; 256];
        assert!(quant::quantize_rows(dtype, &x, 0, Some(&w), &mut bytes).is_err());
        assert!(quant::quantize_rows(dtype, &x, 255, Some(&w), &mut bytes).is_err());
        assert!(quant::quantize_rows(dtype, &x, 256, Some(&w[1..]), &mut bytes).is_err());
        assert!(quant::quantize_rows(dtype, &x, 256, Some(&w), &mut bytes[1..]).is_err());
        let result = quant::quantize_rows(dtype, &x, 256, None, &mut bytes);
        assert_eq!(result.is_err(), quant::requires_importance(dtype), "{dtype}");
    }
    assert!(quant::quantize_rows(DType::I32, &x, 256, None, &mut [0; 1024]).is_err());
}
