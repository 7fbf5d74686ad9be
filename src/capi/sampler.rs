//! Samplers as C callers see them: `llama_sampler` is a table of functions and a context pointer. The library's own
//! samplers share one table over `Box<dyn Sampler>`, chains have theirs in `sampler_chain`, callers bring their own;
//! the functions here dispatch through whichever it is. `sampler_init` makes the library's samplers.

use std::ffi::c_char;
use std::ptr::null_mut;

use super::*;
use crate::sampling::{Candidates, DEFAULT_SEED, Sampler, TokenData};
use crate::{Error, Result};

const _: () = assert!(size_of::<llama_token_data>() == size_of::<TokenData>());
const _: () = assert!(std::mem::offset_of!(llama_token_data, logit) == std::mem::offset_of!(TokenData, logit));
const _: () = assert!(std::mem::offset_of!(llama_token_data, p) == std::mem::offset_of!(TokenData, p));

/// The functions of every sampler whose context is a `Box<Box<dyn Sampler>>`.
static BUILTIN: llama_sampler_i = llama_sampler_i {
    name: Some(builtin_name),
    accept: Some(builtin_accept),
    apply: Some(builtin_apply),
    reset: Some(builtin_reset),
    clone: Some(builtin_clone),
    free: Some(builtin_free),
    backend_init: None,
    backend_accept: None,
    backend_apply: None,
    backend_set_input: None,
    backend_reset: None,
    copy_state: Some(builtin_copy_state),
};

/// Makes a sampler of your own from its functions and what it keeps.
///
/// `iface` is not copied: it must stay valid, and unchanged, as long as the sampler and its clones. `ctx` is handed to
/// the functions through the sampler; `iface->free` is where to release it. The caller owns the result until
/// `llama_sampler_chain_add`, and frees it with `llama_sampler_free`. The functions are called on the thread that
/// uses the sampler, one at a time. Never returns NULL.
///
/// # Safety
/// `iface` must be NULL, which makes a sampler that does nothing, or point to functions as llama_sampler_i describes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_init(
    iface: *mut llama_sampler_i,
    ctx: llama_sampler_context_t,
) -> *mut llama_sampler {
    guard(null_mut(), || Ok(new_sampler(iface, ctx)))
}

/// Returns the sampler's name, such as "top-k"; a leading question mark says that its parameters make it do nothing.
/// "(null)" for NULL and for a sampler without a name. The string belongs to the sampler.
///
/// # Safety
/// `smpl` must be NULL or a sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_name(smpl: *const llama_sampler) -> *const c_char {
    guard(c"(null)".as_ptr(), || {
        // SAFETY: the caller promises NULL or a sampler, and functions that take it.
        let name = unsafe { functions(smpl).and_then(|f| f.name).map(|name| name(smpl)) };
        Ok(name.filter(|name| !name.is_null()).unwrap_or(c"(null)".as_ptr()))
    })
}

/// Tells the sampler that `token` was chosen, so that penalties and the like know it. Does nothing for NULL and for
/// samplers that do not care.
///
/// # Safety
/// `smpl` must be NULL or a sampler that no other thread uses now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_accept(smpl: *mut llama_sampler, token: llama_token) {
    guard((), || {
        // SAFETY: the caller promises NULL or a sampler, and functions that take it.
        unsafe {
            if let Some(accept) = functions(smpl).and_then(|f| f.accept) {
                accept(smpl, token);
            }
        }
        Ok(())
    });
}

/// Applies the sampler to the candidates: it may change their logits and probabilities, reorder them, drop some from
/// either end (`data` and `size` change), and set `selected` to the index of its choice. Does nothing for NULL; a
/// sampler without an apply function is an error, which leaves the candidates as they are.
///
/// # Safety
/// `smpl` must be NULL or a sampler that no other thread uses now; `cur_p` must be NULL or have `size` candidates at
/// `data`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_apply(smpl: *mut llama_sampler, cur_p: *mut llama_token_data_array) {
    guard((), || {
        if smpl.is_null() {
            return Ok(());
        }
        // SAFETY: the caller promises a sampler.
        let apply = unsafe { functions(smpl) }.and_then(|f| f.apply);
        let apply = apply.ok_or_else(|| Error::argument("the sampler has no apply function"))?;
        // SAFETY: the caller promises a sampler with functions that take it, and candidates.
        unsafe { apply(smpl, cur_p) };
        Ok(())
    });
}

/// Puts the sampler back into the state in which it was made: past tokens are forgotten, a seeded sampler starts its
/// sequence again (with a new seed if that is LLAMA_DEFAULT_SEED). Does nothing for NULL.
///
/// # Safety
/// `smpl` must be NULL or a sampler that no other thread uses now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_reset(smpl: *mut llama_sampler) {
    guard((), || {
        // SAFETY: the caller promises NULL or a sampler, and functions that take it.
        unsafe {
            if let Some(reset) = functions(smpl).and_then(|f| f.reset) {
                reset(smpl);
            }
        }
        Ok(())
    });
}

/// Returns a copy with a state of its own, random numbers included, which the caller owns. NULL for NULL and, as an
/// error, for a sampler that has a context but no clone function.
///
/// # Safety
/// `smpl` must be NULL or a sampler that no other thread changes now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_clone(smpl: *const llama_sampler) -> *mut llama_sampler {
    guard(null_mut(), || {
        // SAFETY: the caller promises NULL or a sampler.
        let Some(sampler) = (unsafe { smpl.as_ref() }) else { return Ok(null_mut()) };
        // SAFETY: as above.
        match unsafe { functions(smpl) }.and_then(|f| f.clone) {
            // SAFETY: the function belongs to this sampler.
            Some(clone) => Ok(unsafe { clone(smpl) }),
            None if sampler.ctx.is_null() => Ok(new_sampler(sampler.iface, null_mut())),
            None => Err(Error::argument("the sampler has a context but no clone function")),
        }
    })
}

/// Copies the state of `src` into `dst`, which stays where it is. Both must be of the same kind and made with the same
/// parameters; an error leaves `dst` as it was. Does nothing if either is NULL or both are the same.
///
/// # Safety
/// Both must be NULL or samplers that no other thread uses now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_copy(src: *const llama_sampler, dst: *mut llama_sampler) {
    guard((), || {
        if src.is_null() || dst.is_null() || std::ptr::eq(src, dst) {
            return Ok(());
        }
        // SAFETY: neither is NULL, and the caller promises samplers.
        let (from, to) = unsafe { (*src, *dst) };
        if !std::ptr::eq(from.iface, to.iface) {
            return Err(Error::argument("samplers of different kinds cannot be copied to each other"));
        }
        // SAFETY: as above.
        let Some(f) = (unsafe { functions(src) }) else { return Ok(()) };
        if let Some(copy_state) = f.copy_state {
            // SAFETY: the function belongs to both samplers.
            unsafe { copy_state(src, dst) };
            return Ok(());
        }
        // SAFETY: `src` is a sampler; what the clone function returns is one of the same kind, or NULL.
        unsafe {
            let copy = llama_sampler_clone(src);
            let Some(new) = copy.as_ref().copied() else {
                return Err(Error::argument("the sampler to copy from cannot be cloned"));
            };
            if !std::ptr::eq(new.iface, to.iface) {
                llama_sampler_free(copy);
                return Err(Error::argument("the sampler to copy from has a clone of another kind"));
            }
            if let Some(free) = f.free {
                free(dst);
            }
            (*dst).ctx = new.ctx;
            drop(Box::from_raw(copy));
        }
        Ok(())
    });
}

/// Frees a sampler, and with a chain all samplers in it. Does nothing for NULL. A sampler that was added to a chain
/// belongs to the chain: do not free it.
///
/// # Safety
/// `smpl` must be NULL or a sampler from this library that is not in a chain and not used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_free(smpl: *mut llama_sampler) {
    guard((), || {
        if smpl.is_null() {
            return Ok(());
        }
        // SAFETY: the caller promises a sampler, which `new_sampler` made in a box; this is its last use.
        unsafe {
            if let Some(free) = functions(smpl).and_then(|f| f.free) {
                free(smpl);
            }
            drop(Box::from_raw(smpl));
        }
        Ok(())
    });
}

/// Returns the seed in use by a sampler that draws random numbers, or of the last such sampler in a chain; a seed that
/// was asked for at random is known by now. LLAMA_DEFAULT_SEED for all other samplers and for NULL.
///
/// # Safety
/// `smpl` must be NULL or a sampler that no other thread changes now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_get_seed(smpl: *const llama_sampler) -> u32 {
    guard(DEFAULT_SEED, || {
        // SAFETY: the caller promises NULL or a sampler.
        Ok(unsafe { seed_of(smpl) }.unwrap_or(DEFAULT_SEED))
    })
}

/// The seed that [`llama_sampler_get_seed`] reports.
///
/// # Safety
/// `smpl` must be NULL or a live sampler.
unsafe fn seed_of(smpl: *const llama_sampler) -> Option<u32> {
    // SAFETY: the caller promises NULL or a live sampler.
    unsafe {
        match members(smpl) {
            Some(members) => members.iter().rev().find_map(|&member| seed_of(member)),
            None => builtin(smpl).ok()?.seed(),
        }
    }
}

/// A sampler of the library's own for C callers, who own it from now on.
pub(super) fn wrap(sampler: Box<dyn Sampler>) -> *mut llama_sampler {
    new_sampler((&raw const BUILTIN).cast_mut(), Box::into_raw(Box::new(sampler)).cast())
}

/// The object behind every sampler pointer.
pub(super) fn new_sampler(iface: *mut llama_sampler_i, ctx: llama_sampler_context_t) -> *mut llama_sampler {
    Box::into_raw(Box::new(llama_sampler { iface, ctx }))
}

/// A sampler's functions; None for NULL and for a sampler without any.
///
/// # Safety
/// `smpl` must be NULL or a live sampler.
pub(super) unsafe fn functions(smpl: *const llama_sampler) -> Option<llama_sampler_i> {
    // SAFETY: the caller promises a live sampler, and who made it promised functions that live as long.
    unsafe { smpl.as_ref()?.iface.as_ref().copied() }
}

/// The sampler behind a pointer to one of the library's own, chains excluded.
///
/// # Safety
/// `smpl` must be NULL or a live sampler that nothing else uses while `'a` lasts.
pub(super) unsafe fn builtin<'a>(smpl: *const llama_sampler) -> Result<&'a mut Box<dyn Sampler>> {
    // SAFETY: the caller promises NULL or a live sampler.
    let sampler = unsafe { smpl.as_ref() }.ok_or(Error::Null("sampler"))?;
    if !std::ptr::eq(sampler.iface, &BUILTIN) {
        return Err(Error::argument("not one of the library's own samplers"));
    }
    // SAFETY: only `wrap` makes samplers with this table, and it puts such a box behind ctx.
    Ok(unsafe { &mut *sampler.ctx.cast::<Box<dyn Sampler>>() })
}

unsafe extern "C" fn builtin_name(smpl: *const llama_sampler) -> *const c_char {
    // SAFETY: called through the table of a live sampler.
    guard(c"(null)".as_ptr(), || Ok(unsafe { builtin(smpl) }?.name().as_ptr()))
}

unsafe extern "C" fn builtin_accept(smpl: *mut llama_sampler, token: llama_token) {
    guard((), || {
        // SAFETY: called through the table of a live sampler.
        let sampler = unsafe { builtin(smpl) }?;
        sampler.accept(token);
        sampler.take_error().map_or(Ok(()), Err)
    });
}

unsafe extern "C" fn builtin_apply(smpl: *mut llama_sampler, cur_p: *mut llama_token_data_array) {
    guard((), || {
        // SAFETY: called through the table of a live sampler.
        let sampler = unsafe { builtin(smpl) }?;
        // SAFETY: the caller of llama_sampler_apply promises NULL or candidates.
        let cur = unsafe { cur_p.as_mut() }.ok_or(Error::Null("cur_p"))?;
        // SAFETY: the caller promises `size` candidates at `data`; TokenData has their layout, as asserted above.
        let mut candidates = unsafe {
            let len = array(cur.data, cur.size, "cur_p->data")?.len();
            let data: &mut [TokenData] =
                if len == 0 { &mut [] } else { std::slice::from_raw_parts_mut(cur.data.cast(), len) };
            Candidates { data, selected: cur.selected, sorted: cur.sorted }
        };
        sampler.apply(&mut candidates);
        if !candidates.data.is_empty() {
            cur.data = candidates.data.as_mut_ptr().cast();
        }
        cur.size = candidates.data.len();
        cur.selected = candidates.selected;
        cur.sorted = candidates.sorted;
        sampler.take_error().map_or(Ok(()), Err)
    });
}

unsafe extern "C" fn builtin_reset(smpl: *mut llama_sampler) {
    guard((), || {
        // SAFETY: called through the table of a live sampler.
        unsafe { builtin(smpl) }?.reset();
        Ok(())
    });
}

unsafe extern "C" fn builtin_clone(smpl: *const llama_sampler) -> *mut llama_sampler {
    // SAFETY: called through the table of a live sampler.
    guard(null_mut(), || Ok(wrap(unsafe { builtin(smpl) }?.clone())))
}

unsafe extern "C" fn builtin_free(smpl: *mut llama_sampler) {
    guard((), || {
        // SAFETY: called through the table of a live sampler, once: llama_sampler_free and llama_sampler_copy drop or
        // replace ctx afterwards. `builtin` checks that ctx is a box from `wrap`.
        drop(unsafe { Box::from_raw(builtin(smpl)?) });
        Ok(())
    });
}

unsafe extern "C" fn builtin_copy_state(src: *const llama_sampler, dst: *mut llama_sampler) {
    guard((), || {
        // SAFETY: called through the table of two different live samplers.
        let (src, dst) = unsafe { (builtin(src)?, builtin(dst)?) };
        if src.name() != dst.name() {
            return Err(Error::argument(format!(
                "cannot copy a {:?} sampler to a {:?} sampler",
                src.name(),
                dst.name()
            )));
        }
        *dst = src.clone();
        Ok(())
    });
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
