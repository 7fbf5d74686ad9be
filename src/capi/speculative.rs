//! Functions with C++ names that llama.cpp's speculative decoding imports beside llama.h: what a draft model reads of its
//! target. They stand in no header of ours.

use super::*;
use crate::{Error, Result};

/// llama_get_ctx_other(llama_context*): the context whose memory a draft model shares, which
/// llama_context_params.ctx_other names. No architecture here shares another's: NULL.
#[unsafe(export_name = "_Z19llama_get_ctx_otherP13llama_context")]
unsafe extern "C" fn llama_get_ctx_other(ctx: *mut llama_context) -> *mut llama_context {
    // SAFETY: the caller promises NULL or a live context.
    guard(std::ptr::null_mut(), || unsafe { handle_ref(ctx) }.map(|_| std::ptr::null_mut()))
}

/// llama_set_embeddings_nextn(llama_context*, bool, bool): would keep the hidden states that layers for multi-token
/// prediction read. No architecture here has such layers; asking for them is an error that is logged.
#[unsafe(export_name = "_Z26llama_set_embeddings_nextnP13llama_contextbb")]
unsafe extern "C" fn llama_set_embeddings_nextn(ctx: *mut llama_context, value: bool, _masked: bool) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live context.
        let ctx = unsafe { handle_ref(ctx) }?;
        if value { no_nextn(ctx) } else { Ok(()) }
    });
}

/// llama_set_nextn_layer_offset(llama_context*, int): would choose among such layers. The first, 0, is chosen always.
#[unsafe(export_name = "_Z28llama_set_nextn_layer_offsetP13llama_contexti")]
unsafe extern "C" fn llama_set_nextn_layer_offset(ctx: *mut llama_context, offset: i32) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live context.
        let ctx = unsafe { handle_ref(ctx) }?;
        if offset != 0 { no_nextn(ctx) } else { Ok(()) }
    });
}

/// llama_get_embeddings_nextn(llama_context*): those hidden states. Always NULL, and logged as an error.
#[unsafe(export_name = "_Z26llama_get_embeddings_nextnP13llama_context")]
unsafe extern "C" fn llama_get_embeddings_nextn(ctx: *mut llama_context) -> *mut f32 {
    // SAFETY: the caller promises NULL or a live context.
    guard(std::ptr::null_mut(), || no_nextn(unsafe { handle_ref(ctx) }?))
}

/// llama_get_embeddings_nextn_ith(llama_context*, int): the same of one token. Always NULL, and logged as an error.
#[unsafe(export_name = "_Z30llama_get_embeddings_nextn_ithP13llama_contexti")]
unsafe extern "C" fn llama_get_embeddings_nextn_ith(ctx: *mut llama_context, _i: i32) -> *mut f32 {
    // SAFETY: the caller promises NULL or a live context.
    guard(std::ptr::null_mut(), || no_nextn(unsafe { handle_ref(ctx) }?))
}

fn no_nextn<T>(ctx: &llama_context) -> Result<T> {
    let name = ctx.context()?.model().desc();
    Err(Error::Unsupported(format!("{name} has no layers for multi-token prediction")))
}

/// llama_set_embeddings_layer_inp(llama_context*, unsigned int, bool): whether decodes keep the hidden state that enters
/// layer `lid`.
#[unsafe(export_name = "_Z30llama_set_embeddings_layer_inpP13llama_contextjb")]
unsafe extern "C" fn llama_set_embeddings_layer_inp(ctx: *mut llama_context, lid: u32, value: bool) {
    // SAFETY: the caller promises NULL or a live context.
    guard((), || unsafe { handle_mut(ctx) }?.change(|context, _| context.set_layer_input(lid as usize, value)));
}

/// llama_get_embeddings_layer_inp(llama_context*, unsigned int): the hidden state of every token of the last batch that
/// entered layer `lid`, rows of n_embd floats in the order of the batch; NULL when it was not asked for. Valid until the
/// next decode.
#[unsafe(export_name = "_Z30llama_get_embeddings_layer_inpP13llama_contextj")]
unsafe extern "C" fn llama_get_embeddings_layer_inp(ctx: *mut llama_context, lid: u32) -> *mut f32 {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a live context.
        unsafe { handle_mut(ctx) }?.change(|context, _| Ok(context.layer_input(lid as usize)?.as_mut_ptr()))
    })
}

/// llama_model_dflash_selector_top_k(llama_model const*): how many candidates a diffusion draft's selector takes. No
/// architecture here has one: 0.
#[unsafe(export_name = "_Z33llama_model_dflash_selector_top_kPK11llama_model")]
unsafe extern "C" fn llama_model_dflash_selector_top_k(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises NULL or a live model.
    guard(0, || unsafe { handle_ref(model) }.map(|_| 0))
}

/// llama_model_target_layer_ids(llama_model const*): the layers of its target whose inputs a draft model reads. No
/// architecture here is such a draft: NULL.
#[unsafe(export_name = "_Z28llama_model_target_layer_idsPK11llama_model")]
unsafe extern "C" fn llama_model_target_layer_ids(model: *const llama_model) -> *const i32 {
    // SAFETY: the caller promises NULL or a live model.
    guard(std::ptr::null(), || unsafe { handle_ref(model) }.map(|_| std::ptr::null()))
}

/// llama_model_target_layer_ids_n(llama_model const*): how many those are.
#[unsafe(export_name = "_Z30llama_model_target_layer_ids_nPK11llama_model")]
unsafe extern "C" fn llama_model_target_layer_ids_n(model: *const llama_model) -> u32 {
    // SAFETY: the caller promises NULL or a live model.
    guard(0, || unsafe { handle_ref(model) }.map(|_| 0))
}
