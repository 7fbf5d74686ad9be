//! Sampler chains as C callers see them: lists of any samplers, the caller's own and other chains included, with the
//! time they took. Called through llama.h and through the sampler functions of `sampler`.

use std::ffi::c_char;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use super::*;
use crate::backend::sample::Recipe;
use crate::sampling::{Row, RowSampler, RowUse, row};
use crate::{Error, Result};

/// How deep chains may be nested: every level costs stack.
const MAX_DEPTH: usize = 64;

static CHAIN: llama_sampler_i = llama_sampler_i {
    name: Some(chain_name),
    accept: Some(chain_accept),
    apply: Some(chain_apply),
    reset: Some(chain_reset),
    clone: Some(chain_clone),
    free: Some(chain_free),
    backend_init: Some(chain_backend_init),
    backend_accept: None,
    backend_apply: Some(chain_backend_apply),
    backend_set_input: None,
    backend_reset: None,
    copy_state: Some(chain_copy_state),
};

/// What a chain keeps.
struct Chain {
    params: llama_sampler_chain_params,
    /// First to last; the chain owns them.
    samplers: Vec<*mut llama_sampler>,
    /// The chain that owns this one, if any.
    parent: *const llama_sampler,
    t_sample: Duration,
    n_sample: i32,
    /// What the first samplers do to rows of logits while batches are computed, if the chain is attached to a context; the
    /// others are applied afterwards.
    row_uses: Vec<RowUse>,
}

/// Returns the default parameters: no times are measured.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_chain_default_params() -> llama_sampler_chain_params {
    llama_sampler_chain_params { no_perf: true }
}

/// Makes an empty chain, a sampler that applies others one after another. The caller owns it and frees it, with all
/// samplers in it, by `llama_sampler_free`. One thread at a time may use it. Never returns NULL.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_chain_init(params: llama_sampler_chain_params) -> *mut llama_sampler {
    guard(null_mut(), || {
        let chain = Chain {
            params,
            samplers: Vec::new(),
            parent: null(),
            t_sample: Duration::ZERO,
            n_sample: 0,
            row_uses: Vec::new(),
        };
        Ok(new_sampler((&raw const CHAIN).cast_mut(), Box::into_raw(Box::new(chain)).cast()))
    })
}

/// Adds a sampler to the end of a chain, which owns it from now on: do not free it. It is an error, and the sampler
/// stays the caller's, if either is NULL, `chain` is no chain, `smpl` is in it already, is in another chain as a chain,
/// contains `chain`, or the nesting would exceed 64 chains.
///
/// # Safety
/// `chain` and `smpl` must be NULL or samplers that no other thread uses now; `smpl` must not be in a chain.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_chain_add(chain: *mut llama_sampler, smpl: *mut llama_sampler) {
    guard((), || {
        // SAFETY: the caller promises NULL or samplers; the references to two different chains' contexts do not overlap.
        unsafe {
            let samplers = &chain_ref(chain)?.samplers;
            if smpl.is_null() {
                return Err(Error::Null("sampler"));
            }
            if samplers.contains(&smpl) {
                return Err(Error::argument("the sampler is in the chain already"));
            }
            if is_chain(smpl) {
                check_nesting(chain, smpl)?;
                chain_ref(smpl)?.parent = chain;
            }
            chain_ref(chain)?.samplers.push(smpl);
        }
        Ok(())
    });
}

/// Returns the `i`-th sampler of a chain, counted from 0, which stays the chain's. With `i` -1 returns the chain itself,
/// which tells whether a sampler is a chain. NULL if `chain` is NULL or no chain or has no such sampler.
///
/// # Safety
/// `chain` must be NULL or a sampler that no other thread changes now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_chain_get(chain: *mut llama_sampler, i: i32) -> *mut llama_sampler {
    guard(null_mut(), || {
        // SAFETY: the caller promises NULL or a sampler.
        let Some(members) = (unsafe { members(chain) }) else { return Ok(null_mut()) };
        match usize::try_from(i) {
            Ok(i) => Ok(members.get(i).copied().unwrap_or(null_mut())),
            Err(_) if i == -1 => Ok(chain),
            Err(_) => Ok(null_mut()),
        }
    })
}

/// Returns how many samplers a chain has. 0, as an error, if it is NULL or no chain.
///
/// # Safety
/// `chain` must be NULL or a sampler that no other thread changes now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_chain_n(chain: *const llama_sampler) -> i32 {
    guard(0, || {
        // SAFETY: the caller promises NULL or a sampler.
        let n = unsafe { chain_ref(chain) }?.samplers.len();
        Ok(i32::try_from(n).unwrap_or(i32::MAX))
    })
}

/// Takes the `i`-th sampler, counted from 0, out of a chain and returns it: the caller owns it again. NULL if there is
/// none, and as an error if `chain` is NULL or no chain.
///
/// # Safety
/// `chain` must be NULL or a sampler that no other thread uses now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_chain_remove(chain: *mut llama_sampler, i: i32) -> *mut llama_sampler {
    guard(null_mut(), || {
        // SAFETY: the caller promises NULL or a sampler.
        let Chain { samplers, row_uses, .. } = unsafe { chain_ref(chain) }?;
        let Some(i) = usize::try_from(i).ok().filter(|&i| i < samplers.len()) else { return Ok(null_mut()) };
        let removed = samplers.remove(i);
        if i < row_uses.len() {
            row_uses.remove(i);
        }
        // SAFETY: members of a chain are live samplers.
        unsafe {
            if is_chain(removed) {
                chain_ref(removed)?.parent = null();
            }
        }
        Ok(removed)
    })
}

/// Returns the time that a chain's samplers took, in ms, and how many tokens they accepted, since it was made or
/// `llama_perf_sampler_reset`. The time is 0 if `no_perf` was set. Zeros, as an error, if `chain` is NULL or no chain.
///
/// # Safety
/// `chain` must be NULL or a sampler that no other thread changes now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_perf_sampler(chain: *const llama_sampler) -> llama_perf_sampler_data {
    guard(llama_perf_sampler_data { t_sample_ms: 0.0, n_sample: 0 }, || {
        // SAFETY: the caller promises NULL or a sampler.
        let chain = unsafe { chain_ref(chain) }?;
        Ok(llama_perf_sampler_data { t_sample_ms: chain.t_sample.as_secs_f64() * 1e3, n_sample: chain.n_sample })
    })
}

/// Logs what `llama_perf_sampler` returns, at level INFO.
///
/// # Safety
/// `chain` must be NULL or a sampler that no other thread changes now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_perf_sampler_print(chain: *const llama_sampler) {
    guard((), || {
        // SAFETY: the caller promises NULL or a sampler.
        let chain = unsafe { chain_ref(chain) }?;
        let t_sample_ms = chain.t_sample.as_secs_f64() * 1e3;
        log::info!("llama_perf_sampler_print:    samplers time = {t_sample_ms:10.2} ms / {:5} runs", chain.n_sample);
        Ok(())
    });
}

/// Sets what `llama_perf_sampler` returns back to zero.
///
/// # Safety
/// `chain` must be NULL or a sampler that no other thread uses now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_perf_sampler_reset(chain: *mut llama_sampler) {
    guard((), || {
        // SAFETY: the caller promises NULL or a sampler.
        let chain = unsafe { chain_ref(chain) }?;
        chain.t_sample = Duration::ZERO;
        chain.n_sample = 0;
        Ok(())
    });
}

/// The samplers of a chain; None for NULL and for other samplers. A copy, because functions of the caller's samplers
/// may change the chain while it is walked.
///
/// # Safety
/// `smpl` must be NULL or a live sampler.
pub(super) unsafe fn members(smpl: *const llama_sampler) -> Option<Vec<*mut llama_sampler>> {
    // SAFETY: the caller promises NULL or a live sampler.
    unsafe { chain_ref(smpl) }.ok().map(|chain| chain.samplers.clone())
}

/// Whether a sampler is a chain.
///
/// # Safety
/// `smpl` must be NULL or a live sampler.
unsafe fn is_chain(smpl: *const llama_sampler) -> bool {
    // SAFETY: the caller promises NULL or a live sampler.
    unsafe { smpl.as_ref() }.is_some_and(|sampler| std::ptr::eq(sampler.iface, &CHAIN))
}

/// What a chain keeps. Callers hold the reference only between two calls of members' functions.
///
/// # Safety
/// `chain` must be NULL or a live sampler, and no other reference to its context in use while `'a` lasts.
unsafe fn chain_ref<'a>(chain: *const llama_sampler) -> Result<&'a mut Chain> {
    // SAFETY: the caller promises NULL or a live sampler.
    let sampler = unsafe { chain.as_ref() }.ok_or(Error::Null("sampler chain"))?;
    if !std::ptr::eq(sampler.iface, &CHAIN) {
        return Err(Error::argument("the sampler is not a chain"));
    }
    // SAFETY: only llama_sampler_chain_init makes samplers with this table, with a Chain behind ctx.
    Ok(unsafe { &mut *sampler.ctx.cast::<Chain>() })
}

/// Refuses a chain inside itself, in two chains, or too deep inside others.
///
/// # Safety
/// Both must be live chains.
unsafe fn check_nesting(outer: *const llama_sampler, inner: *const llama_sampler) -> Result<()> {
    // SAFETY: parents are set while a chain is inside another, which therefore is live.
    unsafe {
        if !chain_ref(inner)?.parent.is_null() {
            return Err(Error::argument("the chain is in another chain already"));
        }
        let mut depth = height(inner)?;
        let mut ancestor = outer;
        while !ancestor.is_null() {
            depth += 1;
            if std::ptr::eq(ancestor, inner) {
                return Err(Error::argument("a chain cannot contain itself"));
            }
            ancestor = chain_ref(ancestor)?.parent;
        }
        if depth > MAX_DEPTH {
            return Err(Error::argument(format!("chains nested more than {MAX_DEPTH} deep")));
        }
    }
    Ok(())
}

/// How many chains deep a chain is, itself included.
///
/// # Safety
/// `chain` must be a live chain.
unsafe fn height(chain: *const llama_sampler) -> Result<usize> {
    let mut inner = 0;
    // SAFETY: members of a live chain are live samplers.
    unsafe {
        for &member in &chain_ref(chain)?.samplers {
            if is_chain(member) {
                inner = inner.max(height(member)?);
            }
        }
    }
    Ok(inner + 1)
}

/// Calls `visit` for every member and adds the time to the chain's.
///
/// # Safety
/// `chain` must be a live chain that `visit` does not free.
unsafe fn for_each(chain: *mut llama_sampler, visit: impl FnMut(*mut llama_sampler)) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { for_each_from(chain, 0, visit) }
}

/// The same for the members from the `first` on.
///
/// # Safety
/// As for `for_each`.
unsafe fn for_each_from(
    chain: *mut llama_sampler,
    first: usize,
    mut visit: impl FnMut(*mut llama_sampler),
) -> Result<()> {
    // SAFETY: a live chain; each reference ends before the next call of `visit`, whose callbacks may use the chain.
    unsafe {
        let started = (!chain_ref(chain)?.params.no_perf).then(Instant::now);
        let n = chain_ref(chain)?.samplers.len();
        for i in first..n {
            let Some(&member) = chain_ref(chain)?.samplers.get(i) else { break };
            visit(member);
        }
        if let Some(started) = started {
            chain_ref(chain)?.t_sample += started.elapsed();
        }
    }
    Ok(())
}

unsafe extern "C" fn chain_name(_smpl: *const llama_sampler) -> *const c_char {
    c"chain".as_ptr()
}

unsafe extern "C" fn chain_accept(smpl: *mut llama_sampler, token: llama_token) {
    guard((), || {
        // SAFETY: called through the table of a live chain, whose members are live.
        unsafe {
            for_each(smpl, |member| llama_sampler_accept(member, token))?;
            let n_sample = &mut chain_ref(smpl)?.n_sample;
            *n_sample = n_sample.saturating_add(1);
        }
        Ok(())
    });
}

unsafe extern "C" fn chain_apply(smpl: *mut llama_sampler, cur_p: *mut llama_token_data_array) {
    guard((), || {
        // SAFETY: called through the table of a live chain, whose members are live.
        unsafe {
            let n_done = chain_ref(smpl)?.row_uses.len();
            for_each_from(smpl, n_done, |member| {
                if let Some(apply) = functions(member).and_then(|f| f.apply) {
                    apply(member, cur_p);
                }
            })
        }
    });
}

unsafe extern "C" fn chain_reset(smpl: *mut llama_sampler) {
    guard((), || {
        // SAFETY: called through the table of a live chain, whose members are live.
        unsafe {
            members(smpl).unwrap_or_default().into_iter().for_each(|member| llama_sampler_reset(member));
        }
        Ok(())
    });
}

unsafe extern "C" fn chain_clone(smpl: *const llama_sampler) -> *mut llama_sampler {
    guard(null_mut(), || {
        // SAFETY: called through the table of a live chain, whose members are live.
        unsafe {
            let copy = llama_sampler_chain_init(chain_ref(smpl)?.params);
            for member in members(smpl).unwrap_or_default() {
                let member = llama_sampler_clone(member);
                if member.is_null() {
                    llama_sampler_free(copy);
                    return Err(Error::argument("a sampler of the chain cannot be cloned"));
                }
                llama_sampler_chain_add(copy, member);
            }
            Ok(copy)
        }
    })
}

unsafe extern "C" fn chain_free(smpl: *mut llama_sampler) {
    guard((), || {
        // SAFETY: called through the table of a live chain by llama_sampler_free, once; the chain owns its members.
        unsafe {
            let samplers = std::mem::take(&mut chain_ref(smpl)?.samplers);
            samplers.into_iter().for_each(|member| llama_sampler_free(member));
            drop(Box::from_raw(chain_ref(smpl)?));
        }
        Ok(())
    });
}

unsafe extern "C" fn chain_copy_state(src: *const llama_sampler, dst: *mut llama_sampler) {
    guard((), || {
        // SAFETY: called through the table of two different live chains, whose members are live.
        unsafe {
            let (from, to) = (members(src).unwrap_or_default(), members(dst).unwrap_or_default());
            if from.len() != to.len() {
                return Err(Error::argument(format!(
                    "cannot copy a chain of {} samplers to one of {}",
                    from.len(),
                    to.len()
                )));
            }
            from.into_iter().zip(to).for_each(|(from, to)| llama_sampler_copy(from, to));
            let (src, dst) = (chain_ref(src)?, chain_ref(dst)?);
            dst.params = src.params;
            dst.t_sample = src.t_sample;
            dst.n_sample = src.n_sample;
        }
        Ok(())
    });
}

/// A chain that a context has while it is attached.
struct Attached(*mut llama_sampler);

// SAFETY: the caller lets nobody else use an attached chain while its context decodes, on whatever thread that is.
unsafe impl Send for Attached {}

impl RowSampler for Attached {
    fn begin(&mut self) {
        self.for_each(|sampler, _| sampler.begin_batch());
    }

    fn sample(&mut self, row: &mut Row) {
        self.for_each(|sampler, row_use| row::apply(sampler, row_use, row));
    }

    fn recipe(&self, n_before: usize) -> Option<Recipe> {
        let mut steps = Some(Vec::new());
        self.for_each(|sampler, _| {
            let step = sampler.step(n_before);
            steps = steps.take().zip(step).map(|(mut steps, step)| {
                steps.push(step);
                steps
            });
        });
        Recipe::new(steps?)
    }

    fn pass_row(&mut self) {
        self.for_each(|sampler, _| sampler.pass_row());
    }
}

impl Attached {
    /// Visits the samplers that work on rows.
    fn for_each(&self, mut visit: impl FnMut(&mut dyn crate::sampling::Sampler, RowUse)) {
        // SAFETY: the caller keeps an attached chain, and its members, alive; those in question are the library's own.
        unsafe {
            let Ok(chain) = chain_ref(self.0) else { return };
            for (&member, &row_use) in chain.samplers.iter().zip(&chain.row_uses) {
                if let Ok(sampler) = builtin(member) {
                    visit(sampler.as_mut(), row_use);
                }
            }
        }
    }
}

/// Prepares a chain for rows of logits: as many of its samplers as can work on them, up to the first that cannot. Samplers of
/// the caller's own cannot: theirs would be parts of a compute graph of ggml.
///
/// # Safety
/// `chain` must be NULL or a live sampler, which stays alive while the result is in use.
pub(super) unsafe fn attach(chain: *mut llama_sampler, n_outputs_max: usize) -> Result<Box<dyn RowSampler>> {
    // SAFETY: the caller's promise.
    unsafe {
        let handle = chain_ref(chain)?;
        if handle.samplers.is_empty() {
            return Err(Error::argument("an empty chain cannot be attached"));
        }
        let uses = handle.samplers.iter().map_while(|&member| builtin(member).ok()?.attach(n_outputs_max));
        let uses = uses.collect();
        handle.row_uses = uses;
    }
    Ok(Box::new(Attached(chain)))
}

unsafe extern "C" fn chain_backend_init(
    smpl: *mut llama_sampler,
    _buft: ggml_backend_buffer_type_t,
    n_outputs_max_per_seq: u32,
) -> bool {
    guard(false, || {
        // SAFETY: called through the table of a live chain.
        unsafe {
            attach(smpl, n_outputs_max_per_seq as usize)?;
            let chain = chain_ref(smpl)?;
            Ok(chain.row_uses.len() == chain.samplers.len())
        }
    })
}

unsafe extern "C" fn chain_backend_apply(
    _smpl: *mut llama_sampler,
    _ctx: *mut ggml_context,
    _gf: *mut ggml_cgraph,
    _data: *mut llama_sampler_data,
) {
    guard((), || Err(Error::Unsupported("a chain as a part of a ggml graph; attach it by llama_set_sampler".into())));
}
