//! A context's memory: which tokens of which sequences it holds.

use super::*;
use crate::Result;
use crate::context::Context;
use crate::memory::Memory;

/// The memory of a context.
pub struct llama_memory_i {
    tag: Tag,
    /// The context that this is a part of.
    ctx: *mut llama_context,
}

impl Tagged for llama_memory_i {
    const NAME: &'static str = "mem";
    fn tag(&self) -> &Tag {
        &self.tag
    }
}

impl llama_memory_i {
    pub(super) fn new() -> Self {
        llama_memory_i { tag: Tag::of::<llama_memory_i>(), ctx: std::ptr::null_mut() }
    }

    /// Makes this the memory of `ctx`, of which it is a part.
    pub(super) fn belongs_to(&mut self, ctx: *mut llama_context) {
        self.ctx = ctx;
    }
}

/// Forgets all tokens; with `data` their keys and values are zeroed too.
///
/// # Safety
/// `mem` must be NULL or a live context's memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_memory_clear(mem: llama_memory_t, data: bool) {
    // SAFETY: the caller promises NULL or a live memory.
    unsafe { change(mem, (), |context| context.clear_memory(data)) }
}

/// Removes positions `p0` to `p1` - 1 of a sequence (of all when `seq_id` is negative). A negative `p0` means 0, a negative
/// `p1` the end. Returns false when that part cannot be removed alone; removing a whole sequence always works. Also true
/// when there is no memory.
///
/// # Safety
/// `mem` must be NULL or a live context's memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_memory_seq_rm(
    mem: llama_memory_t,
    seq_id: llama_seq_id,
    p0: llama_pos,
    p1: llama_pos,
) -> bool {
    if mem.is_null() {
        return true;
    }
    // SAFETY: the caller promises NULL or a live memory.
    unsafe { change(mem, false, |context| tokens(context, true, |memory| memory.seq_rm(seq_id, p0, p1))) }
}

/// Makes positions `p0` to `p1` - 1 of a sequence part of another one too. A negative `p0` means 0, a negative `p1` the
/// end. Nothing is copied where sequences share their cells.
///
/// # Safety
/// `mem` must be NULL or a live context's memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_memory_seq_cp(
    mem: llama_memory_t,
    seq_id_src: llama_seq_id,
    seq_id_dst: llama_seq_id,
    p0: llama_pos,
    p1: llama_pos,
) {
    // SAFETY: the caller promises NULL or a live memory.
    unsafe { change(mem, (), |context| tokens(context, (), |memory| memory.seq_cp(seq_id_src, seq_id_dst, p0, p1))) }
}

/// Removes all sequences but one.
///
/// # Safety
/// `mem` must be NULL or a live context's memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_memory_seq_keep(mem: llama_memory_t, seq_id: llama_seq_id) {
    // SAFETY: the caller promises NULL or a live memory.
    unsafe { change(mem, (), |context| tokens(context, (), |memory| memory.seq_keep(seq_id))) }
}

/// Moves positions `p0` to `p1` - 1 of a sequence by `delta`; those that become negative are removed. A negative `p0` means
/// 0, a negative `p1` the end. See llama_memory_can_shift.
///
/// # Safety
/// `mem` must be NULL or a live context's memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_memory_seq_add(
    mem: llama_memory_t,
    seq_id: llama_seq_id,
    p0: llama_pos,
    p1: llama_pos,
    delta: llama_pos,
) {
    // SAFETY: the caller promises NULL or a live memory.
    unsafe { change(mem, (), |context| tokens(context, (), |memory| memory.seq_add(seq_id, p0, p1, delta))) }
}

/// Divides positions `p0` to `p1` - 1 of a sequence by `d`, which is more than 0. A negative `p0` means 0, a negative `p1`
/// the end.
///
/// # Safety
/// `mem` must be NULL or a live context's memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_memory_seq_div(
    mem: llama_memory_t,
    seq_id: llama_seq_id,
    p0: llama_pos,
    p1: llama_pos,
    d: std::ffi::c_int,
) {
    // SAFETY: the caller promises NULL or a live memory.
    unsafe { change(mem, (), |context| tokens(context, (), |memory| memory.seq_div(seq_id, p0, p1, d))) }
}

/// Returns the smallest position of a sequence, or -1 when it is empty. All from it to llama_memory_seq_pos_max are there.
///
/// # Safety
/// `mem` must be NULL or a live context's memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_memory_seq_pos_min(mem: llama_memory_t, seq_id: llama_seq_id) -> llama_pos {
    // SAFETY: the caller promises NULL or a live memory.
    unsafe { change(mem, -1, |context| tokens(context, -1, |memory| Ok(memory.pos_min(seq_id).unwrap_or(-1)))) }
}

/// Returns the largest position of a sequence, or -1 when it is empty.
///
/// # Safety
/// `mem` must be NULL or a live context's memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_memory_seq_pos_max(mem: llama_memory_t, seq_id: llama_seq_id) -> llama_pos {
    // SAFETY: the caller promises NULL or a live memory.
    unsafe { change(mem, -1, |context| tokens(context, -1, |memory| Ok(memory.pos_max(seq_id).unwrap_or(-1)))) }
}

/// Whether positions can be moved.
///
/// # Safety
/// `mem` must be NULL or a live context's memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_memory_can_shift(mem: llama_memory_t) -> bool {
    // SAFETY: the caller promises NULL or a live memory.
    unsafe { change(mem, false, |context| tokens(context, false, |memory| Ok(memory.can_shift()))) }
}

/// Changes the context that a memory belongs to. Without a memory the answer is `default`, and no error.
///
/// # Safety
/// `mem` must be NULL or a live context's memory.
unsafe fn change<T: Copy>(mem: llama_memory_t, default: T, op: impl FnOnce(&mut Context) -> Result<T>) -> T {
    if mem.is_null() {
        return default;
    }
    guard(default, || {
        // SAFETY: not NULL, and the caller promises a live memory.
        let ctx = unsafe { handle_ref(mem) }?.ctx;
        // SAFETY: a memory lives as part of the context that it points to.
        unsafe { handle_mut(ctx) }?.change(|context, _| op(context))
    })
}

fn tokens<T>(context: &mut Context, default: T, op: impl FnOnce(&mut Memory) -> Result<T>) -> Result<T> {
    context.memory_mut().map_or(Ok(default), op)
}
