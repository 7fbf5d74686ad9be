//! File types: the numbers of `llama_ftype`, and the tensor type that each is named after.

use crate::quant::DType;

/// What a file is quantized to. Most are mixes, in which [`super::mix`] gives some tensors more bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // named as in llama.h
#[allow(non_camel_case_types)]
pub enum FileType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q8_0 = 7,
    Q5_0 = 8,
    Q5_1 = 9,
    Q2_K = 10,
    Q3_K_S = 11,
    Q3_K_M = 12,
    Q3_K_L = 13,
    Q4_K_S = 14,
    Q4_K_M = 15,
    Q5_K_S = 16,
    Q5_K_M = 17,
    Q6_K = 18,
    IQ2_XXS = 19,
    IQ2_XS = 20,
    Q2_K_S = 21,
    IQ3_XS = 22,
    IQ3_XXS = 23,
    IQ1_S = 24,
    IQ4_NL = 25,
    IQ3_S = 26,
    IQ3_M = 27,
    IQ2_S = 28,
    IQ2_M = 29,
    IQ4_XS = 30,
    IQ1_M = 31,
    BF16 = 32,
    TQ1_0 = 36,
    TQ2_0 = 37,
    MXFP4_MOE = 38,
    Q1_0 = 40,
    Q2_0 = 41,
}

use FileType as F;

/// Every file type with the type of the tensors that its mix does not treat specially.
const TYPES: [(FileType, DType); 35] = [
    (F::F32, DType::F32),
    (F::F16, DType::F16),
    (F::Q4_0, DType::Q4_0),
    (F::Q4_1, DType::Q4_1),
    (F::Q8_0, DType::Q8_0),
    (F::Q5_0, DType::Q5_0),
    (F::Q5_1, DType::Q5_1),
    (F::Q2_K, DType::Q2K),
    (F::Q3_K_S, DType::Q3K),
    (F::Q3_K_M, DType::Q3K),
    (F::Q3_K_L, DType::Q3K),
    (F::Q4_K_S, DType::Q4K),
    (F::Q4_K_M, DType::Q4K),
    (F::Q5_K_S, DType::Q5K),
    (F::Q5_K_M, DType::Q5K),
    (F::Q6_K, DType::Q6K),
    (F::IQ2_XXS, DType::IQ2XXS),
    (F::IQ2_XS, DType::IQ2XS),
    (F::Q2_K_S, DType::Q2K),
    (F::IQ3_XS, DType::IQ3S),
    (F::IQ3_XXS, DType::IQ3XXS),
    (F::IQ1_S, DType::IQ1S),
    (F::IQ4_NL, DType::IQ4NL),
    (F::IQ3_S, DType::IQ3S),
    (F::IQ3_M, DType::IQ3S),
    (F::IQ2_S, DType::IQ2XS),
    (F::IQ2_M, DType::IQ2S),
    (F::IQ4_XS, DType::IQ4XS),
    (F::IQ1_M, DType::IQ1M),
    (F::BF16, DType::BF16),
    (F::TQ1_0, DType::TQ1_0),
    (F::TQ2_0, DType::TQ2_0),
    (F::MXFP4_MOE, DType::MXFP4),
    (F::Q1_0, DType::Q1_0),
    (F::Q2_0, DType::Q2_0),
];

impl FileType {
    /// The file type of a number of `llama_ftype`, if files can be quantized to it.
    pub fn from_number(n: i64) -> Option<FileType> {
        TYPES.iter().map(|&(ftype, _)| ftype).find(|&ftype| ftype as i64 == n)
    }

    /// The type of the tensors that the mix does not treat specially.
    pub fn dtype(self) -> DType {
        TYPES.iter().find(|(ftype, _)| *ftype == self).expect("TYPES has every variant").1
    }
}
