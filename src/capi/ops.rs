//! Names of ggml's operations, for programs that print the tensors of an evaluation callback.

use std::ffi::{CStr, c_char};

use super::*;
use crate::Error;

/// By the numbers of [`ggml_op`].
///
/// cbindgen:ignore
const OPS: [&CStr; 101] = [
    c"NONE",
    c"DUP",
    c"ADD",
    c"ADD_ID",
    c"ADD1",
    c"ACC",
    c"SUB",
    c"MUL",
    c"DIV",
    c"SQR",
    c"SQRT",
    c"LOG",
    c"SIN",
    c"COS",
    c"SUM",
    c"SUM_ROWS",
    c"CUMSUM",
    c"MEAN",
    c"ARGMAX",
    c"COUNT_EQUAL",
    c"REPEAT",
    c"REPEAT_BACK",
    c"CONCAT",
    c"SILU_BACK",
    c"NORM",
    c"RMS_NORM",
    c"RMS_NORM_BACK",
    c"GROUP_NORM",
    c"L2_NORM",
    c"MUL_MAT",
    c"MUL_MAT_ID",
    c"OUT_PROD",
    c"SCALE",
    c"SET",
    c"CPY",
    c"CONT",
    c"RESHAPE",
    c"VIEW",
    c"PERMUTE",
    c"TRANSPOSE",
    c"GET_ROWS",
    c"GET_ROWS_BACK",
    c"SET_ROWS",
    c"DIAG",
    c"DIAG_MASK_INF",
    c"DIAG_MASK_ZERO",
    c"SOFT_MAX",
    c"SOFT_MAX_BACK",
    c"ROPE",
    c"ROPE_BACK",
    c"CLAMP",
    c"CONV_TRANSPOSE_1D",
    c"IM2COL",
    c"IM2COL_BACK",
    c"IM2COL_3D",
    c"COL2IM_1D",
    c"CONV_2D",
    c"CONV_3D",
    c"CONV_2D_DW",
    c"CONV_TRANSPOSE_2D",
    c"POOL_1D",
    c"POOL_2D",
    c"POOL_2D_BACK",
    c"UPSCALE",
    c"PAD",
    c"PAD_REFLECT_1D",
    c"ROLL",
    c"ARANGE",
    c"TIMESTEP_EMBEDDING",
    c"ARGSORT",
    c"TOP_K",
    c"LEAKY_RELU",
    c"TRI",
    c"FILL",
    c"FLASH_ATTN_EXT",
    c"FLASH_ATTN_BACK",
    c"SSM_CONV",
    c"SSM_SCAN",
    c"WIN_PART",
    c"WIN_UNPART",
    c"GET_REL_POS",
    c"ADD_REL_POS",
    c"RWKV_WKV6",
    c"GATED_LINEAR_ATTN",
    c"RWKV_WKV7",
    c"SOLVE_TRI",
    c"GATED_DELTA_NET",
    c"LIGHTNING_INDEXER",
    c"DSV4_HC_COMB",
    c"DSV4_HC_PRE",
    c"DSV4_HC_POST",
    c"UNARY",
    c"MAP_CUSTOM1",
    c"MAP_CUSTOM2",
    c"MAP_CUSTOM3",
    c"CUSTOM",
    c"CROSS_ENTROPY_LOSS",
    c"CROSS_ENTROPY_LOSS_BACK",
    c"OPT_STEP_ADAMW",
    c"OPT_STEP_SGD",
    c"GLU",
];

/// By the numbers of [`ggml_unary_op`].
///
/// cbindgen:ignore
const UNARY_OPS: [&CStr; 22] = [
    c"ABS",
    c"SGN",
    c"NEG",
    c"STEP",
    c"TANH",
    c"ELU",
    c"RELU",
    c"SIGMOID",
    c"GELU",
    c"GELU_QUICK",
    c"SILU",
    c"HARDSWISH",
    c"HARDSIGMOID",
    c"EXP",
    c"EXPM1",
    c"SOFTPLUS",
    c"GELU_ERF",
    c"XIELU",
    c"FLOOR",
    c"CEIL",
    c"ROUND",
    c"TRUNC",
];

/// By the numbers of [`ggml_glu_op`].
///
/// cbindgen:ignore
const GLU_OPS: [&CStr; 7] =
    [c"REGLU", c"GEGLU", c"SWIGLU", c"SWIGLU_OAI", c"GEGLU_ERF", c"GEGLU_QUICK", c"SWIGLU_CLAMP"];

const _: () = assert!(OPS.len() == ggml_op::GGML_OP_COUNT as usize);
const _: () = assert!(UNARY_OPS.len() == ggml_unary_op::GGML_UNARY_OP_COUNT as usize);
const _: () = assert!(GLU_OPS.len() == ggml_glu_op::GGML_GLU_OP_COUNT as usize);

/// Returns an operation's name, for example "MUL_MAT"; NULL for a number that no operation has. The string lives as long
/// as the library.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_op_name(op: CEnum<ggml_op>) -> *const c_char {
    guard(std::ptr::null(), || name(&OPS, op.value()))
}

/// Returns what made a tensor: the operation's name, or that of the function for GGML_OP_UNARY and GGML_OP_GLU, for
/// example "SWIGLU". NULL for a number that none has. The string lives as long as the library.
///
/// # Safety
/// `t` must be NULL or a live tensor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_op_desc(t: *const ggml_tensor) -> *const c_char {
    guard(std::ptr::null(), || {
        // SAFETY: the caller promises NULL or a live tensor.
        let t = unsafe { t.as_ref() }.ok_or(Error::Null("t"))?;
        if t.op.value() == ggml_op::GGML_OP_UNARY as i32 {
            name(&UNARY_OPS, t.op_params[0])
        } else if t.op.value() == ggml_op::GGML_OP_GLU as i32 {
            name(&GLU_OPS, t.op_params[0])
        } else {
            name(&OPS, t.op.value())
        }
    })
}

fn name(names: &[&'static CStr], number: i32) -> Result<*const c_char, Error> {
    let found = usize::try_from(number).ok().and_then(|i| names.get(i));
    Ok(found.ok_or_else(|| Error::argument(format!("no operation has the number {number}")))?.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_have_names() {
        // SAFETY: the functions return static strings for these numbers, and the tensor lives.
        unsafe {
            assert_eq!(CStr::from_ptr(ggml_op_name(CEnum::new(ggml_op::GGML_OP_FLASH_ATTN_EXT))), c"FLASH_ATTN_EXT");
            for n in [-1, ggml_op::GGML_OP_COUNT as i32, i32::MAX] {
                assert!(ggml_op_name(CEnum::from_int(n)).is_null());
            }
            let mut t = tensor::describe(CEnum::new(ggml_type::GGML_TYPE_F32), &[1]).unwrap();
            t.op = CEnum::new(ggml_op::GGML_OP_GLU);
            t.op_params[0] = ggml_glu_op::GGML_GLU_OP_SWIGLU as i32;
            assert_eq!(CStr::from_ptr(ggml_op_desc(&t)), c"SWIGLU");
            t.op_params[0] = 99;
            assert!(ggml_op_desc(&t).is_null() && ggml_op_desc(std::ptr::null()).is_null());
        }
    }
}
