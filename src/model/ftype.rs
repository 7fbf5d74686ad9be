//! File types: which quantization a file as a whole is said to have (`llama_ftype`).

use crate::gguf::GgufFiles;
use crate::quant::DType;

/// Set when the file does not say and the most frequent tensor type was taken.
pub const GUESSED: u32 = 1024;

/// Numbers and names of llama_ftype, with the tensor type that stands for it.
const FTYPES: &[(u32, &str, Option<DType>)] = &[
    (0, "all F32", Some(DType::F32)),
    (1, "F16", Some(DType::F16)),
    (2, "Q4_0", Some(DType::Q4_0)),
    (3, "Q4_1", Some(DType::Q4_1)),
    (7, "Q8_0", Some(DType::Q8_0)),
    (8, "Q5_0", Some(DType::Q5_0)),
    (9, "Q5_1", Some(DType::Q5_1)),
    (10, "Q2_K - Medium", Some(DType::Q2K)),
    (11, "Q3_K - Small", None),
    (12, "Q3_K - Medium", Some(DType::Q3K)),
    (13, "Q3_K - Large", None),
    (14, "Q4_K - Small", None),
    (15, "Q4_K - Medium", Some(DType::Q4K)),
    (16, "Q5_K - Small", None),
    (17, "Q5_K - Medium", Some(DType::Q5K)),
    (18, "Q6_K", Some(DType::Q6K)),
    (19, "IQ2_XXS - 2.0625 bpw", Some(DType::IQ2XXS)),
    (20, "IQ2_XS - 2.3125 bpw", Some(DType::IQ2XS)),
    (21, "Q2_K - Small", None),
    (22, "IQ3_XS - 3.3 bpw", None),
    (23, "IQ3_XXS - 3.0625 bpw", Some(DType::IQ3XXS)),
    (24, "IQ1_S - 1.5625 bpw", Some(DType::IQ1S)),
    (25, "IQ4_NL - 4.5 bpw", Some(DType::IQ4NL)),
    (26, "IQ3_S - 3.4375 bpw", Some(DType::IQ3S)),
    (27, "IQ3_S mix - 3.66 bpw", None),
    (28, "IQ2_S - 2.5 bpw", Some(DType::IQ2S)),
    (29, "IQ2_M - 2.7 bpw", None),
    (30, "IQ4_XS - 4.25 bpw", Some(DType::IQ4XS)),
    (31, "IQ1_M - 1.75 bpw", Some(DType::IQ1M)),
    (32, "BF16", Some(DType::BF16)),
    (36, "TQ1_0 - 1.69 bpw ternary", Some(DType::TQ1_0)),
    (37, "TQ2_0 - 2.06 bpw ternary", Some(DType::TQ2_0)),
    (38, "MXFP4 MoE", None),
    (39, "NVFP4", Some(DType::NVFP4)),
    (40, "Q1_0", Some(DType::Q1_0)),
    (41, "Q2_0", Some(DType::Q2_0)),
];

/// llama.cpp's name of a file type, without the mark of a guess.
pub fn name(ftype: u32) -> &'static str {
    FTYPES.iter().find(|(n, ..)| *n == ftype & !GUESSED).map_or("unknown, may not work", |(_, name, _)| name)
}

/// What the file says, or the type of most of its tensors with the mark of a guess.
pub fn of_file(files: &GgufFiles) -> u32 {
    if let Ok(Some(ftype)) = files.meta().find::<u32>("general.file_type") {
        return ftype;
    }
    let mut counts = std::collections::BTreeMap::new();
    for t in files.tensors() {
        *counts.entry(t.dtype as u32).or_insert(0usize) += 1;
    }
    let most = counts.iter().max_by_key(|(n, count)| (**count, std::cmp::Reverse(**n))).map(|(n, _)| *n);
    let ftype = FTYPES.iter().find(|(_, _, t)| t.is_some_and(|t| Some(t as u32) == most)).map_or(0, |(n, ..)| *n);
    ftype | GUESSED
}
