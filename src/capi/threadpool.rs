//! Thread pools that a caller makes and attaches to contexts. The functions are found by name through
//! `ggml_backend_reg_get_proc_address`, as programs do that load ggml's CPU backend at run time.

use super::*;
use crate::Error;
use crate::backend::{Placement, Priority};

/// The most threads of a pool.
///
/// cbindgen:ignore
pub const GGML_MAX_N_THREADS: usize = 512;

/// How many threads a context computes with, where and how. A context that it is attached to starts them; the pool
/// itself is only their description.
pub struct ggml_threadpool {
    tag: Tag,
    /// What it was made with.
    pub(crate) params: ggml_threadpool_params,
}

impl ggml_threadpool {
    /// Where its threads run; `None`: like any others.
    pub(super) fn placement(&self) -> Option<Placement> {
        let p = &self.params;
        let placement = Placement {
            cpus: (0..p.cpumask.len()).filter(|&cpu| p.cpumask[cpu]).collect(),
            strict: p.strict_cpu,
            priority: match p.prio.value() {
                -1 => Priority::Low,
                1 => Priority::Medium,
                2 => Priority::High,
                3 => Priority::Realtime,
                _ => Priority::Normal,
            },
            poll: p.poll,
        };
        (placement != Placement::default()).then_some(placement)
    }
}

impl Tagged for ggml_threadpool {
    const NAME: &'static str = "threadpool";
    fn tag(&self) -> &Tag {
        &self.tag
    }
}

/// Makes a pool, which ggml_threadpool_free frees. Returns NULL when the parameters make no sense.
///
/// # Safety
/// `params` must be NULL or initialized parameters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_threadpool_new(params: *mut ggml_threadpool_params) -> *mut ggml_threadpool {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or initialized parameters.
        let params = *unsafe { params.as_ref() }.ok_or(Error::Null("params"))?;
        if !(1..=GGML_MAX_N_THREADS as i32).contains(&params.n_threads) {
            return Err(Error::argument(format!("a thread pool of {} threads", params.n_threads)));
        }
        Ok(Box::into_raw(Box::new(ggml_threadpool { tag: Tag::of::<ggml_threadpool>(), params })))
    })
}

/// Frees a pool that no context uses any more. NULL does nothing.
///
/// # Safety
/// `threadpool` must be NULL or a pool that is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_threadpool_free(threadpool: *mut ggml_threadpool) {
    guard((), || {
        if !threadpool.is_null() {
            // SAFETY: the caller promises a pool of ggml_threadpool_new that is not used any more.
            unsafe {
                handle_ref(threadpool)?;
                drop(Box::from_raw(threadpool));
            }
        }
        Ok(())
    });
}
