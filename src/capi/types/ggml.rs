//! The public types of ggml.h that llama.h and the programs built on it use.

use std::ffi::{c_char, c_int, c_void};

use super::*;

/// Receives log messages: the level, one message in UTF-8, and the user data given with the callback.
pub type ggml_log_callback =
    Option<unsafe extern "C" fn(level: CEnum<ggml_log_level>, text: *const c_char, user_data: *mut c_void)>;
/// Is asked now and then during a computation; returns true to stop it.
pub type ggml_abort_callback = Option<unsafe extern "C" fn(data: *mut c_void) -> bool>;
/// The bits of an IEEE 754 half-precision number.
pub type ggml_fp16_t = u16;
/// A set of threads that a context computes with.
pub type ggml_threadpool_t = *mut ggml_threadpool;

/// How the elements of a tensor are stored.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ggml_type {
    GGML_TYPE_F32 = 0,
    GGML_TYPE_F16 = 1,
    GGML_TYPE_Q4_0 = 2,
    GGML_TYPE_Q4_1 = 3,
    GGML_TYPE_Q5_0 = 6,
    GGML_TYPE_Q5_1 = 7,
    GGML_TYPE_Q8_0 = 8,
    GGML_TYPE_Q8_1 = 9,
    GGML_TYPE_Q2_K = 10,
    GGML_TYPE_Q3_K = 11,
    GGML_TYPE_Q4_K = 12,
    GGML_TYPE_Q5_K = 13,
    GGML_TYPE_Q6_K = 14,
    GGML_TYPE_Q8_K = 15,
    GGML_TYPE_IQ2_XXS = 16,
    GGML_TYPE_IQ2_XS = 17,
    GGML_TYPE_IQ3_XXS = 18,
    GGML_TYPE_IQ1_S = 19,
    GGML_TYPE_IQ4_NL = 20,
    GGML_TYPE_IQ3_S = 21,
    GGML_TYPE_IQ2_S = 22,
    GGML_TYPE_IQ4_XS = 23,
    GGML_TYPE_I8 = 24,
    GGML_TYPE_I16 = 25,
    GGML_TYPE_I32 = 26,
    GGML_TYPE_I64 = 27,
    GGML_TYPE_F64 = 28,
    GGML_TYPE_IQ1_M = 29,
    GGML_TYPE_BF16 = 30,
    GGML_TYPE_TQ1_0 = 34,
    GGML_TYPE_TQ2_0 = 35,
    GGML_TYPE_MXFP4 = 39,
    GGML_TYPE_NVFP4 = 40,
    GGML_TYPE_Q1_0 = 41,
    GGML_TYPE_Q2_0 = 42,
    GGML_TYPE_COUNT = 43,
}

/// The operation that makes a tensor.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ggml_op {
    GGML_OP_NONE = 0,
    GGML_OP_DUP = 1,
    GGML_OP_ADD = 2,
    GGML_OP_ADD_ID = 3,
    GGML_OP_ADD1 = 4,
    GGML_OP_ACC = 5,
    GGML_OP_SUB = 6,
    GGML_OP_MUL = 7,
    GGML_OP_DIV = 8,
    GGML_OP_SQR = 9,
    GGML_OP_SQRT = 10,
    GGML_OP_LOG = 11,
    GGML_OP_SIN = 12,
    GGML_OP_COS = 13,
    GGML_OP_SUM = 14,
    GGML_OP_SUM_ROWS = 15,
    GGML_OP_CUMSUM = 16,
    GGML_OP_MEAN = 17,
    GGML_OP_ARGMAX = 18,
    GGML_OP_COUNT_EQUAL = 19,
    GGML_OP_REPEAT = 20,
    GGML_OP_REPEAT_BACK = 21,
    GGML_OP_CONCAT = 22,
    GGML_OP_SILU_BACK = 23,
    GGML_OP_NORM = 24,
    GGML_OP_RMS_NORM = 25,
    GGML_OP_RMS_NORM_BACK = 26,
    GGML_OP_GROUP_NORM = 27,
    GGML_OP_L2_NORM = 28,
    GGML_OP_MUL_MAT = 29,
    GGML_OP_MUL_MAT_ID = 30,
    GGML_OP_OUT_PROD = 31,
    GGML_OP_SCALE = 32,
    GGML_OP_SET = 33,
    GGML_OP_CPY = 34,
    GGML_OP_CONT = 35,
    GGML_OP_RESHAPE = 36,
    GGML_OP_VIEW = 37,
    GGML_OP_PERMUTE = 38,
    GGML_OP_TRANSPOSE = 39,
    GGML_OP_GET_ROWS = 40,
    GGML_OP_GET_ROWS_BACK = 41,
    GGML_OP_SET_ROWS = 42,
    GGML_OP_DIAG = 43,
    GGML_OP_DIAG_MASK_INF = 44,
    GGML_OP_DIAG_MASK_ZERO = 45,
    GGML_OP_SOFT_MAX = 46,
    GGML_OP_SOFT_MAX_BACK = 47,
    GGML_OP_ROPE = 48,
    GGML_OP_ROPE_BACK = 49,
    GGML_OP_CLAMP = 50,
    GGML_OP_CONV_TRANSPOSE_1D = 51,
    GGML_OP_IM2COL = 52,
    GGML_OP_IM2COL_BACK = 53,
    GGML_OP_IM2COL_3D = 54,
    GGML_OP_COL2IM_1D = 55,
    GGML_OP_CONV_2D = 56,
    GGML_OP_CONV_3D = 57,
    GGML_OP_CONV_2D_DW = 58,
    GGML_OP_CONV_TRANSPOSE_2D = 59,
    GGML_OP_POOL_1D = 60,
    GGML_OP_POOL_2D = 61,
    GGML_OP_POOL_2D_BACK = 62,
    GGML_OP_UPSCALE = 63,
    GGML_OP_PAD = 64,
    GGML_OP_PAD_REFLECT_1D = 65,
    GGML_OP_ROLL = 66,
    GGML_OP_ARANGE = 67,
    GGML_OP_TIMESTEP_EMBEDDING = 68,
    GGML_OP_ARGSORT = 69,
    GGML_OP_TOP_K = 70,
    GGML_OP_LEAKY_RELU = 71,
    GGML_OP_TRI = 72,
    GGML_OP_FILL = 73,
    GGML_OP_FLASH_ATTN_EXT = 74,
    GGML_OP_FLASH_ATTN_BACK = 75,
    GGML_OP_SSM_CONV = 76,
    GGML_OP_SSM_SCAN = 77,
    GGML_OP_WIN_PART = 78,
    GGML_OP_WIN_UNPART = 79,
    GGML_OP_GET_REL_POS = 80,
    GGML_OP_ADD_REL_POS = 81,
    GGML_OP_RWKV_WKV6 = 82,
    GGML_OP_GATED_LINEAR_ATTN = 83,
    GGML_OP_RWKV_WKV7 = 84,
    GGML_OP_SOLVE_TRI = 85,
    GGML_OP_GATED_DELTA_NET = 86,
    GGML_OP_LIGHTNING_INDEXER = 87,
    GGML_OP_DSV4_HC_COMB = 88,
    GGML_OP_DSV4_HC_PRE = 89,
    GGML_OP_DSV4_HC_POST = 90,
    GGML_OP_UNARY = 91,
    GGML_OP_MAP_CUSTOM1 = 92,
    GGML_OP_MAP_CUSTOM2 = 93,
    GGML_OP_MAP_CUSTOM3 = 94,
    GGML_OP_CUSTOM = 95,
    GGML_OP_CROSS_ENTROPY_LOSS = 96,
    GGML_OP_CROSS_ENTROPY_LOSS_BACK = 97,
    GGML_OP_OPT_STEP_ADAMW = 98,
    GGML_OP_OPT_STEP_SGD = 99,
    GGML_OP_GLU = 100,
    GGML_OP_COUNT = 101,
}

/// The function of a GGML_OP_UNARY, the first of its op_params.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ggml_unary_op {
    GGML_UNARY_OP_ABS = 0,
    GGML_UNARY_OP_SGN = 1,
    GGML_UNARY_OP_NEG = 2,
    GGML_UNARY_OP_STEP = 3,
    GGML_UNARY_OP_TANH = 4,
    GGML_UNARY_OP_ELU = 5,
    GGML_UNARY_OP_RELU = 6,
    GGML_UNARY_OP_SIGMOID = 7,
    GGML_UNARY_OP_GELU = 8,
    GGML_UNARY_OP_GELU_QUICK = 9,
    GGML_UNARY_OP_SILU = 10,
    GGML_UNARY_OP_HARDSWISH = 11,
    GGML_UNARY_OP_HARDSIGMOID = 12,
    GGML_UNARY_OP_EXP = 13,
    GGML_UNARY_OP_EXPM1 = 14,
    GGML_UNARY_OP_SOFTPLUS = 15,
    GGML_UNARY_OP_GELU_ERF = 16,
    GGML_UNARY_OP_XIELU = 17,
    GGML_UNARY_OP_FLOOR = 18,
    GGML_UNARY_OP_CEIL = 19,
    GGML_UNARY_OP_ROUND = 20,
    GGML_UNARY_OP_TRUNC = 21,
    GGML_UNARY_OP_COUNT = 22,
}

/// The activation of a GGML_OP_GLU, the first of its op_params.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ggml_glu_op {
    GGML_GLU_OP_REGLU = 0,
    GGML_GLU_OP_GEGLU = 1,
    GGML_GLU_OP_SWIGLU = 2,
    GGML_GLU_OP_SWIGLU_OAI = 3,
    GGML_GLU_OP_GEGLU_ERF = 4,
    GGML_GLU_OP_GEGLU_QUICK = 5,
    GGML_GLU_OP_SWIGLU_CLAMP = 6,
    GGML_GLU_OP_COUNT = 7,
}

/// How important a log message is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ggml_log_level {
    GGML_LOG_LEVEL_NONE = 0,
    GGML_LOG_LEVEL_DEBUG = 1,
    GGML_LOG_LEVEL_INFO = 2,
    GGML_LOG_LEVEL_WARN = 3,
    GGML_LOG_LEVEL_ERROR = 4,
    GGML_LOG_LEVEL_CONT = 5,
}

/// What a tensor is in a graph: a set of bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ggml_tensor_flag {
    GGML_TENSOR_FLAG_INPUT = 1,
    GGML_TENSOR_FLAG_OUTPUT = 2,
    GGML_TENSOR_FLAG_PARAM = 4,
    GGML_TENSOR_FLAG_LOSS = 8,
    GGML_TENSOR_FLAG_COMPUTE = 16,
}

/// A tensor of up to four dimensions, `ne[0]` the fastest.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ggml_tensor {
    /// How elements are stored.
    pub r#type: CEnum<ggml_type>,
    /// The memory that holds the elements, or NULL.
    pub buffer: *mut ggml_backend_buffer,
    /// Elements in each dimension.
    pub ne: [i64; 4],
    /// Bytes from one element (block, in dimension 0) to the next in each dimension.
    pub nb: [usize; 4],
    /// What makes it.
    pub op: CEnum<ggml_op>,
    /// Parameters of op.
    pub op_params: [i32; 16],
    /// Bits of ggml_tensor_flag.
    pub flags: i32,
    /// What op reads.
    pub src: [*mut ggml_tensor; 10],
    /// The tensor that this is a view of, or NULL.
    pub view_src: *mut ggml_tensor,
    /// Byte offset of the view.
    pub view_offs: usize,
    /// The elements, or NULL.
    pub data: *mut c_void,
    /// NUL-terminated name.
    pub name: [c_char; 64],
    /// Free for a backend's use.
    pub extra: *mut c_void,
    /// Unused.
    pub padding: [c_char; 8],
}

/// The memory of a ggml_context.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ggml_init_params {
    /// Bytes.
    pub mem_size: usize,
    /// Memory to use; NULL: the library allocates.
    pub mem_buffer: *mut c_void,
    /// Make tensors without memory for their elements.
    pub no_alloc: bool,
}

/// A bfloat16 number.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ggml_bf16_t {
    /// The upper half of a float's bits.
    pub bits: u16,
}

/// Priority of threads.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ggml_sched_priority {
    GGML_SCHED_PRIO_LOW = -1,
    GGML_SCHED_PRIO_NORMAL = 0,
    GGML_SCHED_PRIO_MEDIUM = 1,
    GGML_SCHED_PRIO_HIGH = 2,
    GGML_SCHED_PRIO_REALTIME = 3,
}

/// How to set up a thread pool.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ggml_threadpool_params {
    /// Which CPUs to run on; all false: any.
    pub cpumask: [bool; 512],
    /// How many threads.
    pub n_threads: c_int,
    /// Their priority.
    pub prio: CEnum<ggml_sched_priority>,
    /// How long to spin for work before sleeping, from 0 (not) to 100.
    pub poll: u32,
    /// Give each thread a CPU of its own.
    pub strict_cpu: bool,
    /// Start asleep.
    pub paused: bool,
}
