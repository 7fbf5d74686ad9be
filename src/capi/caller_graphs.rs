//! Names of ggml that only callers with compute graphs of their own use: llama.cpp's multimodal library builds its image and
//! audio encoders with them. Such graphs are not computed here. The names are exported so that programs that contain that
//! library start, also with LD_BIND_NOW=1, and do everything else; every function fails with a logged reason. A caller
//! begins with `ggml_backend_init_by_type` or `ggml_backend_dev_init`, gets NULL there, and says that it has no backend.
//! They stand in no header of ours.

use std::ffi::c_void;

use super::*;
use crate::Error;

/// Exports functions that log their name as unsupported and return 0, false or NULL. What they are given is not looked at: in
/// the C calling conventions of the platforms that exist, arguments are the caller's to clear away.
macro_rules! unsupported {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> *mut c_void {
                guard(std::ptr::null_mut(), || {
                    Err(Error::Unsupported(concat!(stringify!($name), ": compute graphs of callers").into()))
                })
            }
        )*
    };
}

unsupported! {
    ggml_add ggml_arange ggml_argmax ggml_argsort ggml_backend_alloc_ctx_tensors_from_buft
    ggml_backend_buffer_free ggml_backend_buffer_set_usage ggml_backend_dev_init ggml_backend_free
    ggml_backend_get_default_buffer_type ggml_backend_get_device ggml_backend_init_by_type ggml_backend_name
    ggml_backend_sched_alloc_graph ggml_backend_sched_free ggml_backend_sched_get_buffer_size
    ggml_backend_sched_get_n_splits ggml_backend_sched_graph_compute ggml_backend_sched_new
    ggml_backend_sched_reserve ggml_backend_sched_reset ggml_backend_sched_set_eval_callback
    ggml_backend_supports_op ggml_build_forward_expand ggml_build_forward_order ggml_build_forward_select
    ggml_cast ggml_clamp ggml_col2im_1d ggml_concat ggml_cont ggml_cont_2d ggml_cont_3d ggml_cont_4d
    ggml_conv_1d ggml_conv_1d_dw ggml_conv_1d_ph ggml_conv_2d ggml_conv_2d_direct ggml_conv_2d_dw
    ggml_conv_2d_dw_direct ggml_cos ggml_cumsum ggml_div ggml_dup_tensor ggml_elu ggml_fill
    ggml_flash_attn_ext ggml_flash_attn_ext_add_sinks ggml_geglu_erf_split ggml_geglu_quick_split
    ggml_geglu_split ggml_gelu ggml_gelu_erf ggml_gelu_inplace ggml_gelu_quick ggml_get_rows
    ggml_graph_get_tensor ggml_graph_overhead ggml_hardsigmoid ggml_hardswish ggml_im2col ggml_interpolate
    ggml_log ggml_mean ggml_mul ggml_mul_mat ggml_mul_mat_id ggml_new_graph_custom ggml_norm ggml_pad
    ggml_pad_ext ggml_pad_reflect_1d ggml_permute ggml_pool_1d ggml_pool_2d ggml_prec_set_acc ggml_relu
    ggml_relu_inplace ggml_repeat ggml_repeat_4d ggml_reshape_1d ggml_reshape_2d ggml_reshape_3d
    ggml_reshape_4d ggml_rms_norm ggml_roll ggml_rope_ext ggml_rope_multi ggml_rope_set_offset ggml_scale
    ggml_scale_bias ggml_set_input ggml_set_output ggml_set_rows ggml_sigmoid ggml_silu ggml_sin ggml_soft_max
    ggml_soft_max_add_sinks ggml_soft_max_ext ggml_sqr ggml_sqrt ggml_ssm_conv ggml_step ggml_sub ggml_sum
    ggml_sum_rows ggml_swiglu_clamp ggml_swiglu_split ggml_swiglu_swapped ggml_tanh ggml_top_k ggml_transpose
    ggml_tri ggml_upscale ggml_view_1d ggml_view_2d ggml_view_3d ggml_view_4d
}
