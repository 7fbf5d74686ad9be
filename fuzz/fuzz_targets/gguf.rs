//! The GGUF reader on arbitrary bytes: whatever it accepts can be read through to the last value and tensor, and written
//! again to a file that says the same.
#![no_main]

use infer::gguf::{Gguf, GgufFiles, LoadOptions, Source, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes(bytes) else { return };
    for (key, value) in gguf.kv() {
        let _ = (gguf.find::<u32>(key), gguf.find::<f32>(key), gguf.find_string(key));
        let _ = (gguf.find_per_layer::<u32>(key, 4), gguf.find_vec::<f32>(key));
        if let Value::Array(array) = value {
            for i in 0..array.len() {
                assert!(array.value(i).is_some());
            }
            assert!(array.value(array.len()).is_none());
        }
    }
    // The padding of a written header is as large as the alignment that the file asks for.
    if gguf.alignment <= 1 << 16 {
        let meta = gguf.meta_bytes();
        let again = Gguf::from_bytes(&meta).expect("what was read and written is valid");
        assert_eq!(again.meta_bytes(), meta);
        assert_eq!(again.tensors(), gguf.tensors());
    }

    let Ok(files) = GgufFiles::open(Source::Bytes(bytes.to_vec()), LoadOptions::default()) else { return };
    for tensor in files.tensors() {
        let data = files.tensor(&tensor.name).expect("open() found all data in the file");
        assert_eq!(data.bytes().len() as u64, tensor.size);
        let mut y = vec![0.0; tensor.n_elements() as usize];
        let _ = infer::quant::dequantize(tensor.dtype, data.bytes(), &mut y);
        let _ = files.check_tensor(&tensor.name);
    }
});
