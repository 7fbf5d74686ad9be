//! The evaluation callback of llama_context_params: the values of a graph as `ggml_tensor`s, for programs that look at
//! every result, such as llama-imatrix. Used by `context`.

use std::ffi::c_void;

use super::*;
use crate::backend::Seen;
use crate::context::EvalCallback;
use crate::graph::{BinaryOp, GluOp, Graph, NormKind, Op, RopeKind, Source, UnaryOp, Value, ValueId};

/// Wraps a caller's callback for the engine.
///
/// # Safety
/// `callback` must take `user_data` on whatever thread decodes, as long as the result lives, and not unwind.
pub(super) unsafe fn eval_callback(
    callback: unsafe extern "C" fn(*mut ggml_tensor, bool, *mut c_void) -> bool,
    user_data: *mut c_void,
) -> EvalCallback {
    let mut watch = Watch { tensors: Vec::new(), user_data };
    Box::new(move |graph: &Graph, seen: Seen<'_>| {
        // Named as a whole: closures would take the pointer inside alone, which is not Send.
        let watch = &mut watch;
        match seen {
            Seen::Begins => {
                watch.tensors = tensors(graph);
                true
            }
            // SAFETY: the promise of whoever made this closure; the tensors live until the next run begins.
            Seen::Asks(id) => unsafe { callback(watch.tensor(id), true, watch.user_data) },
            Seen::Shows(id, bytes) => {
                watch.place(graph, id, bytes);
                // SAFETY: as above.
                unsafe { callback(watch.tensor(id), false, watch.user_data) }
            }
        }
    })
}

/// The tensors of the graph being run.
struct Watch {
    tensors: Vec<ggml_tensor>,
    user_data: *mut c_void,
}

// SAFETY: the pointers inside of the tensors are followed by the callback only, on the thread that decodes; so is the
// caller's data, which the caller promised to be usable there.
unsafe impl Send for Watch {}

impl Watch {
    /// The tensor of a value, as those that point at it know it.
    fn tensor(&mut self, id: ValueId) -> *mut ggml_tensor {
        assert!((id.0 as usize) < self.tensors.len(), "the graph is not the one that began");
        self.tensors.as_mut_ptr().wrapping_add(id.0 as usize)
    }

    /// Points a value and what it was made from to their bytes.
    fn place<'a>(&mut self, graph: &Graph, id: ValueId, bytes: &dyn Fn(ValueId) -> Option<&'a [u8]>) {
        let inputs: &[ValueId] = match &graph.value(id).source {
            Source::Node { inputs, .. } => inputs,
            Source::View { of, .. } => std::slice::from_ref(of),
            Source::Weight(_) | Source::State(_) | Source::Input(_) => &[],
        };
        for &id in inputs.iter().chain([&id]) {
            let (owner, _) = graph.resolve(id);
            for id in [owner, id] {
                let data = bytes(id).map_or(std::ptr::null_mut(), |bytes| bytes.as_ptr().cast_mut().cast());
                // SAFETY: one of our own tensors, which nobody refers to now.
                unsafe { (*self.tensor(id)).data = data };
            }
        }
    }
}

/// A tensor for each value of a graph, without data but for weights; `src` and `view_src` point among them.
pub(super) fn tensors(graph: &Graph) -> Vec<ggml_tensor> {
    let mut tensors: Vec<ggml_tensor> = graph.values.iter().map(describe).collect();
    let first = tensors.as_mut_ptr();
    let at = |id: ValueId| first.wrapping_add(id.0 as usize);
    for (i, value) in graph.values.iter().enumerate() {
        // SAFETY: there is a tensor for each value, and this is the only reference to it.
        let tensor = unsafe { &mut *first.add(i) };
        match &value.source {
            Source::Node { op, inputs } => {
                for (slot, id) in order(op, inputs) {
                    tensor.src[slot] = at(id);
                }
                if *op == Op::SetRows {
                    tensor.view_src = at(inputs[0]);
                }
            }
            Source::View { of, offset } => {
                (tensor.src[0], tensor.view_src, tensor.view_offs) = (at(*of), at(*of), *offset);
            }
            Source::Weight(_) | Source::State(_) | Source::Input(_) => {}
        }
    }
    tensors
}

/// In which slot of `src` ggml has each operand.
fn order(op: &Op, inputs: &[ValueId]) -> Vec<(usize, ValueId)> {
    let slots = if *op == Op::SetRows {
        [2, 0, 1, 3]
    } else if matches!(op, Op::Attention(_)) {
        // ggml's mask has slot 3; ours is no tensor.
        [0, 1, 2, 4]
    } else {
        [0, 1, 2, 3]
    };
    slots.into_iter().zip(inputs.iter().copied()).collect()
}

fn describe(value: &Value) -> ggml_tensor {
    let (op, op_params) = operation(value);
    let flags = match &value.source {
        Source::Input(_) => ggml_tensor_flag::GGML_TENSOR_FLAG_INPUT as i32,
        Source::Node { .. } | Source::View { .. } => ggml_tensor_flag::GGML_TENSOR_FLAG_COMPUTE as i32,
        Source::Weight(_) | Source::State(_) => 0,
    };
    let data = match &value.source {
        Source::Weight(w) => w.bytes().as_ptr().cast_mut().cast(),
        Source::State(_) | Source::Input(_) | Source::Node { .. } | Source::View { .. } => std::ptr::null_mut(),
    };
    let mut tensor = ggml_tensor {
        r#type: CEnum::from_int(value.dtype as i32),
        buffer: device::cpu_buffer(),
        ne: value.ne.map(|n| n as i64),
        nb: value.nb,
        op: CEnum::new(op),
        op_params,
        flags,
        src: [std::ptr::null_mut(); 10],
        view_src: std::ptr::null_mut(),
        view_offs: 0,
        data,
        name: [0; 64],
        extra: std::ptr::null_mut(),
        padding: [0; 8],
    };
    // Callers know weights by the file's names; a part of one is known by the whole.
    let name = match &value.source {
        Source::Weight(w) => w.part_of.as_ref().map_or(&w.name, |(whole, _)| whole),
        Source::State(_) | Source::Input(_) | Source::Node { .. } | Source::View { .. } => &value.name,
    };
    tensor::set_name(&mut tensor, &logging::c_text(name));
    tensor
}

/// ggml's operation and its parameters.
fn operation(value: &Value) -> (ggml_op, [i32; 16]) {
    use ggml_op::*;
    let mut params = [0; 16];
    let op = match &value.source {
        Source::Weight(_) | Source::State(_) | Source::Input(_) => GGML_OP_NONE,
        Source::View { .. } if value.nb.is_sorted() && value.is_contiguous() => GGML_OP_RESHAPE,
        Source::View { .. } if value.nb.is_sorted() => GGML_OP_VIEW,
        Source::View { .. } => GGML_OP_PERMUTE,
        Source::Node { op, .. } => computed(op, &mut params),
    };
    (op, params)
}

fn computed(op: &Op, params: &mut [i32; 16]) -> ggml_op {
    use ggml_op::*;
    let mut floats = |at: usize, values: &[f32]| {
        for (param, value) in params[at..].iter_mut().zip(values) {
            *param = value.to_bits() as i32;
        }
    };
    match *op {
        Op::GetRows => GGML_OP_GET_ROWS,
        Op::MatMul => GGML_OP_MUL_MAT,
        Op::MatMulId => GGML_OP_MUL_MAT_ID,
        Op::Binary(BinaryOp::Add) => GGML_OP_ADD,
        Op::Binary(BinaryOp::Sub) => GGML_OP_SUB,
        Op::Binary(BinaryOp::Mul) => GGML_OP_MUL,
        Op::Binary(BinaryOp::Div) => GGML_OP_DIV,
        Op::AddId => GGML_OP_ADD_ID,
        Op::Scale { scale, bias } => {
            floats(0, &[scale, bias]);
            GGML_OP_SCALE
        }
        Op::Clamp { min, max } => {
            floats(0, &[min, max]);
            GGML_OP_CLAMP
        }
        Op::Unary(op) => match unary(op) {
            Ok(op) => {
                params[0] = op as i32;
                GGML_OP_UNARY
            }
            Err(op) => op,
        },
        Op::Glu(op) => {
            params[0] = match op {
                GluOp::Silu => ggml_glu_op::GGML_GLU_OP_SWIGLU,
                GluOp::Gelu => ggml_glu_op::GGML_GLU_OP_GEGLU,
                GluOp::GeluErf => ggml_glu_op::GGML_GLU_OP_GEGLU_ERF,
                GluOp::Relu => ggml_glu_op::GGML_GLU_OP_REGLU,
            } as i32;
            GGML_OP_GLU
        }
        Op::Norm(norm) => {
            floats(0, &[norm.eps]);
            match norm.kind {
                NormKind::Rms => GGML_OP_RMS_NORM,
                NormKind::Layer => GGML_OP_NORM,
                NormKind::L2 => GGML_OP_L2_NORM,
            }
        }
        Op::SoftMax { scale } => {
            floats(0, &[scale]);
            GGML_OP_SOFT_MAX
        }
        Op::Rope(r) => {
            floats(5, &[r.freq_base, r.freq_scale, r.ext_factor, r.attn_factor, r.beta_fast, r.beta_slow]);
            params[1] = r.n_dims as i32;
            params[2] = match r.kind {
                RopeKind::Norm => 0,
                RopeKind::Neox => 2,
            };
            params[4] = r.n_ctx_orig as i32;
            GGML_OP_ROPE
        }
        // ggml multiplies by a matrix for it, which is not there.
        Op::Hadamard { .. } => GGML_OP_MAP_CUSTOM1,
        Op::Attention(a) => {
            floats(0, &[a.scale, a.max_alibi_bias, a.soft_cap]);
            GGML_OP_FLASH_ATTN_EXT
        }
        Op::SetRows => GGML_OP_SET_ROWS,
        Op::Cont => GGML_OP_CONT,
        Op::Concat { dim } => {
            params[0] = dim as i32;
            GGML_OP_CONCAT
        }
        Op::Repeat => GGML_OP_REPEAT,
        Op::SumRows => GGML_OP_SUM_ROWS,
        Op::TopK { .. } => GGML_OP_TOP_K,
    }
}

/// ggml's function, or its operation where the function is one.
fn unary(op: UnaryOp) -> std::result::Result<ggml_unary_op, ggml_op> {
    use ggml_unary_op::*;
    Ok(match op {
        UnaryOp::Silu => GGML_UNARY_OP_SILU,
        UnaryOp::Gelu => GGML_UNARY_OP_GELU,
        UnaryOp::GeluErf => GGML_UNARY_OP_GELU_ERF,
        UnaryOp::GeluQuick => GGML_UNARY_OP_GELU_QUICK,
        UnaryOp::Relu => GGML_UNARY_OP_RELU,
        UnaryOp::Sigmoid => GGML_UNARY_OP_SIGMOID,
        UnaryOp::Tanh => GGML_UNARY_OP_TANH,
        UnaryOp::Exp => GGML_UNARY_OP_EXP,
        UnaryOp::Softplus => GGML_UNARY_OP_SOFTPLUS,
        UnaryOp::Neg => GGML_UNARY_OP_NEG,
        UnaryOp::Sqr => return Err(ggml_op::GGML_OP_SQR),
        UnaryOp::Sqrt => return Err(ggml_op::GGML_OP_SQRT),
    })
}
