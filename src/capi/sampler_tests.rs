//! The sampler functions as a C caller uses them: samplers of the caller's own, ownership in chains, misuse.

use super::super::sampler_init::*;
use super::*;
use std::ffi::{CStr, c_void};

/// What the caller's sampler of these tests keeps: a token to choose and what happened to it.
#[derive(Default)]
struct Mine {
    favourite: llama_token,
    accepted: Vec<llama_token>,
    resets: usize,
    /// Counts frees, beyond the sampler's own life.
    freed: Option<std::rc::Rc<std::cell::Cell<usize>>>,
}

unsafe fn mine<'a>(smpl: *const llama_sampler) -> &'a mut Mine {
    // SAFETY: the tests put a Mine behind every ctx of this table.
    unsafe { &mut *(*smpl).ctx.cast::<Mine>() }
}

unsafe extern "C" fn mine_name(_: *const llama_sampler) -> *const c_char {
    c"mine".as_ptr()
}

unsafe extern "C" fn mine_accept(smpl: *mut llama_sampler, token: llama_token) {
    // SAFETY: called through the table.
    unsafe { mine(smpl) }.accepted.push(token);
}

unsafe extern "C" fn mine_apply(smpl: *mut llama_sampler, cur_p: *mut llama_token_data_array) {
    // SAFETY: called through the table with the candidates of the test.
    unsafe {
        let cur = &mut *cur_p;
        let data = std::slice::from_raw_parts(cur.data, cur.size);
        cur.selected = data.iter().position(|c| c.id == mine(smpl).favourite).map_or(-1, |i| i as i64);
    }
}

unsafe extern "C" fn mine_reset(smpl: *mut llama_sampler) {
    // SAFETY: called through the table.
    unsafe { mine(smpl) }.resets += 1;
}

unsafe extern "C" fn mine_clone(smpl: *const llama_sampler) -> *mut llama_sampler {
    // SAFETY: called through the table.
    unsafe {
        let mine = mine(smpl);
        let copy = Mine { favourite: mine.favourite, accepted: mine.accepted.clone(), resets: 0, freed: None };
        llama_sampler_init((*smpl).iface, Box::into_raw(Box::new(copy)).cast())
    }
}

unsafe extern "C" fn mine_free(smpl: *mut llama_sampler) {
    // SAFETY: called through the table, once per context.
    let mine = unsafe { Box::from_raw((*smpl).ctx.cast::<Mine>()) };
    if let Some(freed) = mine.freed {
        freed.set(freed.get() + 1);
    }
}

const NONE: llama_sampler_i = llama_sampler_i {
    name: None,
    accept: None,
    apply: None,
    reset: None,
    clone: None,
    free: None,
    backend_init: None,
    backend_accept: None,
    backend_apply: None,
    backend_set_input: None,
    backend_reset: None,
    copy_state: None,
};

static MINE: llama_sampler_i = llama_sampler_i {
    name: Some(mine_name),
    accept: Some(mine_accept),
    apply: Some(mine_apply),
    reset: Some(mine_reset),
    clone: Some(mine_clone),
    free: Some(mine_free),
    ..NONE
};

static EMPTY: llama_sampler_i = NONE;

fn table(iface: &'static llama_sampler_i) -> *mut llama_sampler_i {
    (&raw const *iface).cast_mut()
}

fn new_mine(mine: Mine) -> *mut llama_sampler {
    // SAFETY: the table's functions take a Mine.
    unsafe { llama_sampler_init(table(&MINE), Box::into_raw(Box::new(mine)).cast()) }
}

fn candidates(logits: &[f32]) -> Vec<llama_token_data> {
    logits.iter().zip(0..).map(|(&logit, id)| llama_token_data { id, logit, p: 0.0 }).collect()
}

/// Applies to fresh candidates; returns the token chosen.
unsafe fn choose(smpl: *mut llama_sampler, logits: &[f32]) -> Option<llama_token> {
    let mut data = candidates(logits);
    let mut cur = llama_token_data_array { data: data.as_mut_ptr(), size: data.len(), selected: -1, sorted: false };
    // SAFETY: a live sampler, and candidates as the array says.
    unsafe {
        llama_sampler_apply(smpl, &mut cur);
        let left = std::slice::from_raw_parts(cur.data, cur.size);
        usize::try_from(cur.selected).ok().map(|i| left[i].id)
    }
}

unsafe fn name(smpl: *const llama_sampler) -> String {
    // SAFETY: names are NUL-terminated strings.
    unsafe { CStr::from_ptr(llama_sampler_name(smpl)) }.to_str().unwrap().to_owned()
}

#[test]
fn a_callers_sampler_works_in_a_chain() {
    let freed = std::rc::Rc::new(std::cell::Cell::new(0));
    // SAFETY: samplers are used as llama.h documents.
    unsafe {
        let chain = llama_sampler_chain_init(llama_sampler_chain_params { no_perf: false });
        let own = new_mine(Mine { favourite: 2, freed: Some(freed.clone()), ..Mine::default() });
        llama_sampler_chain_add(chain, llama_sampler_init_top_k(3));
        llama_sampler_chain_add(chain, own);
        assert_eq!(llama_sampler_chain_n(chain), 2);
        assert_eq!(llama_sampler_chain_get(chain, 1), own);
        assert_eq!(llama_sampler_chain_get(chain, -1), chain);
        assert!(llama_sampler_chain_get(chain, 2).is_null());
        assert!(llama_sampler_chain_get(chain, -2).is_null());
        assert!(llama_sampler_chain_get(own, -1).is_null());
        assert_eq!((name(chain), name(own)), ("chain".into(), "mine".into()));

        assert_eq!(choose(chain, &[0.0, 5.0, 1.0, 3.0]), Some(2));
        assert_eq!(choose(chain, &[0.5, 5.0, 0.0, 3.0]), None);
        llama_sampler_accept(chain, 7);
        llama_sampler_reset(chain);
        assert_eq!((mine(own).accepted.as_slice(), mine(own).resets), (&[7][..], 1));

        let copy = llama_sampler_clone(chain);
        mine(llama_sampler_chain_get(copy, 1)).favourite = 3;
        assert_eq!(choose(copy, &[0.0, 5.0, 1.0, 3.0]), Some(3));
        llama_sampler_copy(copy, chain);
        assert_eq!(freed.get(), 1, "the old state is freed");
        assert_eq!(choose(chain, &[0.0, 5.0, 1.0, 3.0]), Some(3));
        llama_sampler_free(copy);

        let perf = llama_perf_sampler(chain);
        assert!(perf.n_sample <= 1 && perf.t_sample_ms >= 0.0);
        llama_perf_sampler_print(chain);
        llama_perf_sampler_reset(chain);
        assert_eq!(llama_perf_sampler(chain).n_sample, 0);

        let removed = llama_sampler_chain_remove(chain, 1);
        assert_eq!((removed, llama_sampler_chain_n(chain)), (own, 1));
        mine(removed).freed = Some(freed.clone());
        llama_sampler_free(chain);
        assert_eq!(freed.get(), 1);
        llama_sampler_free(removed);
        assert_eq!(freed.get(), 2);
    }
}

#[test]
fn builtins_clone_copy_and_report_seeds() {
    // SAFETY: samplers are used as llama.h documents.
    unsafe {
        let (a, b) = (llama_sampler_init_dist(5), llama_sampler_init_dist(5));
        let draws = |s| -> Vec<_> { (0..20).map(|_| choose(s, &[0.0; 30])).collect() };
        draws(a);
        let c = llama_sampler_clone(a);
        llama_sampler_copy(a, b);
        let expected = draws(a);
        assert_eq!((draws(b), draws(c)), (expected.clone(), expected));
        assert_eq!(llama_sampler_get_seed(a), 5);

        let chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
        llama_sampler_chain_add(chain, a);
        llama_sampler_chain_add(chain, llama_sampler_init_greedy());
        assert_eq!(llama_sampler_get_seed(chain), 5);
        assert_eq!(llama_sampler_get_seed(llama_sampler_chain_get(chain, 1)), DEFAULT_SEED);
        [chain, b, c].into_iter().for_each(|s| llama_sampler_free(s));

        let random = llama_sampler_init_dist(DEFAULT_SEED);
        assert_ne!(llama_sampler_get_seed(random), DEFAULT_SEED);
        llama_sampler_free(random);
    }
}

#[test]
fn missing_functions_and_null_are_harmless() {
    let null = null_mut();
    // SAFETY: NULL everywhere, or tables without functions.
    unsafe {
        let bare = llama_sampler_init(null_mut(), null_mut());
        let empty = llama_sampler_init(table(&EMPTY), null_mut());
        let mut something = 1;
        let with_ctx = llama_sampler_init(table(&EMPTY), (&raw mut something).cast::<c_void>());
        for smpl in [null, bare, empty, with_ctx] {
            assert_eq!(name(smpl), "(null)");
            llama_sampler_accept(smpl, 1);
            llama_sampler_reset(smpl);
            llama_sampler_apply(smpl, null_mut());
            assert_eq!(choose(smpl, &[1.0]), None);
            assert_eq!(llama_sampler_get_seed(smpl), DEFAULT_SEED);
            assert_eq!(llama_sampler_chain_n(smpl), 0);
            assert!(llama_sampler_chain_get(smpl, -1).is_null());
            assert!(llama_sampler_chain_remove(smpl, 0).is_null());
            llama_sampler_copy(smpl, null);
            llama_sampler_copy(smpl, bare);
            assert_eq!(llama_perf_sampler(smpl).n_sample, 0);
            llama_perf_sampler_print(smpl);
            llama_perf_sampler_reset(smpl);
            llama_sampler_chain_add(smpl, null);
        }
        assert!(llama_sampler_clone(null).is_null());
        assert!(llama_sampler_clone(with_ctx).is_null());
        let copy = llama_sampler_clone(empty);
        assert!(!copy.is_null());

        // In a chain they are skipped, but a chain with one that cannot be cloned cannot either.
        let chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
        for smpl in [bare, empty, copy, with_ctx, llama_sampler_init_greedy()] {
            llama_sampler_chain_add(chain, smpl);
        }
        assert_eq!(choose(chain, &[1.0, 2.0]), Some(1));
        assert!(llama_sampler_clone(chain).is_null());
        llama_sampler_free(chain);
        llama_sampler_free(null);
    }
}

#[test]
fn bad_candidates_are_errors() {
    // SAFETY: the arrays say what they are, or are NULL.
    unsafe {
        for smpl in [llama_sampler_init_greedy(), llama_sampler_init_dist(1), llama_sampler_init_typical(0.5, 1)] {
            llama_sampler_apply(smpl, null_mut());
            assert_eq!(choose(smpl, &[]), None);
            for size in [3, usize::MAX] {
                let mut cur = llama_token_data_array { data: null_mut(), size, selected: 9, sorted: true };
                llama_sampler_apply(smpl, &mut cur);
                assert_eq!((cur.size, cur.selected), (size, 9));
            }
            llama_sampler_free(smpl);
        }
        assert!(llama_sampler_init_logit_bias(10, 3, std::ptr::null()).is_null());
        let disabled = llama_sampler_init_logit_bias(10, -3, std::ptr::null());
        assert_eq!(name(disabled), "?logit-bias");
        llama_sampler_free(disabled);
    }
}

#[test]
fn chains_refuse_what_would_not_end() {
    let params = llama_sampler_chain_default_params();
    // SAFETY: samplers are used as llama.h documents but for the additions that must be refused.
    unsafe {
        let (a, b) = (llama_sampler_chain_init(params), llama_sampler_chain_init(params));
        llama_sampler_chain_add(a, a);
        assert_eq!(llama_sampler_chain_n(a), 0);
        llama_sampler_chain_add(a, b);
        llama_sampler_chain_add(a, b);
        llama_sampler_chain_add(b, a);
        assert_eq!((llama_sampler_chain_n(a), llama_sampler_chain_n(b)), (1, 0));
        assert_eq!(llama_sampler_chain_remove(a, 0), b);
        llama_sampler_chain_add(b, a);
        assert_eq!(llama_sampler_chain_n(b), 1);

        let mut outer = b;
        let mut refused = 0;
        for _ in 0..100 {
            let next = llama_sampler_chain_init(params);
            llama_sampler_chain_add(next, outer);
            if llama_sampler_chain_n(next) == 0 {
                refused += 1;
                llama_sampler_free(next);
            } else {
                outer = next;
            }
        }
        assert_eq!(refused, 100 - 62);
        assert_eq!(choose(outer, &[1.0]), None);
        llama_sampler_free(outer);
    }
}

#[test]
fn copies_between_kinds_are_refused() {
    // SAFETY: live samplers.
    unsafe {
        let (k, greedy) = (llama_sampler_init_top_k(1), llama_sampler_init_greedy());
        let chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
        llama_sampler_copy(k, greedy);
        llama_sampler_copy(chain, greedy);
        assert_eq!(choose(greedy, &[1.0, 2.0]), Some(1));
        [k, greedy, chain].into_iter().for_each(|s| llama_sampler_free(s));
    }
}
