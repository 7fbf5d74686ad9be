//! Functions with C++ names that llama.cpp's programs import beside llama.h. They stand in no header of ours.

use std::ffi::c_int;

use super::*;
use crate::Error;

/// llama_model_n_expert(llama_model const*): how many experts a layer has, 0 when there are none.
#[unsafe(export_name = "_Z20llama_model_n_expertPK11llama_model")]
unsafe extern "C" fn llama_model_n_expert(model: *const llama_model) -> i32 {
    guard(0, || {
        // SAFETY: the caller promises NULL or a live model.
        let hparams = &unsafe { handle_ref(model) }?.model.hparams;
        Ok(hparams.as_ref().map_or(0, |hp| hp.n_expert as i32))
    })
}

/// llama_model_n_devices(llama_model const*): how many GPUs hold parts of the model.
#[unsafe(export_name = "_Z21llama_model_n_devicesPK11llama_model")]
unsafe extern "C" fn llama_model_n_devices(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises NULL or a live model.
    guard(0, || Ok(unsafe { handle_ref(model) }?.model.offload().map_or(0, |o| o.adapters().len() as i32)))
}

/// llama_model_get_device(llama_model const*, int): the GPU of that number, or NULL.
#[unsafe(export_name = "_Z22llama_model_get_devicePK11llama_modeli")]
unsafe extern "C" fn llama_model_get_device(model: *const llama_model, i: c_int) -> ggml_backend_dev_t {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a live model.
        let offload = unsafe { handle_ref(model) }?.model.offload();
        let adapter = offload.and_then(|o| o.adapters().get(usize::try_from(i).ok()?).copied());
        Ok(adapter.map_or(std::ptr::null_mut(), device::device_of_adapter))
    })
}

/// llama_model_get_tok_embd(llama_model const*, float*): writes the embedding table, row by row, and returns how many numbers
/// it has. NULL for `out` only tells that. 0: there is no table.
#[unsafe(export_name = "_Z24llama_model_get_tok_embdPK11llama_modelPf")]
unsafe extern "C" fn llama_model_get_tok_embd(model: *const llama_model, out: *mut f32) -> u32 {
    guard(0, || {
        // SAFETY: the caller promises NULL or a live model.
        let model = &unsafe { handle_ref(model) }?.model;
        let Some(table) = model.weights().iter().find(|w| w.name == "token_embd.weight") else { return Ok(0) };
        let n = u32::try_from(table.n_elements());
        let n = n.map_err(|_| Error::tensor(&table.name, "has more elements than can be told"))?;
        if !out.is_null() {
            // SAFETY: not NULL, and the caller promises room for as many numbers as were told.
            let out = unsafe { std::slice::from_raw_parts_mut(out, n as usize) };
            crate::quant::dequantize(table.dtype, table.bytes(), out)?;
        }
        Ok(n)
    })
}

/// llama_graph_reserve(llama_context*, unsigned int, unsigned int, unsigned int): what the context would compute for
/// `n_tokens` tokens of `n_seqs` sequences, `n_outputs` of them with outputs; NULL when it cannot. The graph is the
/// context's, until the next call or its end.
#[unsafe(export_name = "_Z19llama_graph_reserveP13llama_contextjjj")]
unsafe extern "C" fn llama_graph_reserve(
    ctx: *mut llama_context,
    n_tokens: u32,
    n_seqs: u32,
    n_outputs: u32,
) -> *mut ggml_cgraph {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a live context.
        let ctx = unsafe { handle_mut(ctx) }?;
        let plan = ctx.context()?.reserve_graph(n_tokens as usize, n_seqs as usize, n_outputs as usize)?;
        Ok(&raw mut **ctx.graph.insert(Box::new(ggml_cgraph::new(plan))))
    })
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod breakdown {
    //! Memory by kind, which these functions return as a std::map of libstdc++ by value.

    use super::*;
    use crate::{Error, Result};

    /// What libstdc++ keeps at the front of every node of a map.
    #[repr(C)]
    struct NodeBase {
        color: c_int,
        parent: *mut NodeBase,
        left: *mut NodeBase,
        right: *mut NodeBase,
    }

    const RED: c_int = 0;
    const BLACK: c_int = 1;

    /// std::map: the (empty) comparison, the header node, the number of nodes.
    #[repr(C)]
    pub(super) struct Map {
        compare: usize,
        header: NodeBase,
        count: usize,
    }

    /// A node of a std::map from ggml_backend_buffer_type_t.
    #[repr(C)]
    struct Node<V> {
        base: NodeBase,
        key: ggml_backend_buffer_type_t,
        value: V,
    }

    /// llama_memory_breakdown_data: bytes of weights, of the context, and of temporary results.
    type Data = [usize; 3];

    /// What is told of each device.
    type Entries<V> = Vec<(Option<usize>, V)>;

    const _: () = assert!(size_of::<Map>() == 48 && size_of::<Node<Data>>() == 64 && size_of::<Node<usize>>() == 48);

    /// llama_get_memory_breakdown(llama_context const*): bytes by kind of memory. The caller passes where the map goes.
    #[unsafe(export_name = "_Z26llama_get_memory_breakdownPK13llama_context")]
    unsafe extern "C" fn llama_get_memory_breakdown(map: *mut Map, ctx: *const llama_context) -> *mut Map {
        // SAFETY: the caller promises memory for the map, and NULL or a live context.
        unsafe { fill(map, || context_memory(ctx)) }
    }

    /// llama_context::memory_breakdown() const: the same.
    #[unsafe(export_name = "_ZNK13llama_context16memory_breakdownEv")]
    unsafe extern "C" fn llama_context_memory_breakdown(map: *mut Map, ctx: *const llama_context) -> *mut Map {
        // SAFETY: the caller promises memory for the map, and NULL or a live context.
        unsafe { fill(map, || context_memory(ctx)) }
    }

    /// llama_model::memory_breakdown() const: bytes of weights by kind of memory. The caller passes where the map goes.
    #[unsafe(export_name = "_ZNK11llama_model16memory_breakdownEv")]
    unsafe extern "C" fn llama_model_memory_breakdown(map: *mut Map, model: *const llama_model) -> *mut Map {
        // SAFETY: the caller promises memory for the map, and NULL or a live model.
        unsafe {
            fill(map, || {
                let by_device = handle_ref(model)?.model.memory_by_device();
                Ok(by_device.into_iter().map(|(device, [weights, ..])| (device, weights)).collect())
            })
        }
    }

    /// # Safety
    /// `ctx` must be NULL or a live context.
    unsafe fn context_memory(ctx: *const llama_context) -> Result<Entries<Data>> {
        // SAFETY: the caller's promise.
        Ok(unsafe { handle_ref(ctx) }?.context()?.memory_by_device())
    }

    /// Makes a map with an entry for each device, or an empty one after an error.
    ///
    /// # Safety
    /// `map` must have room for a map.
    unsafe fn fill<V>(map: *mut Map, entries: impl FnOnce() -> Result<Entries<V>>) -> *mut Map {
        // SAFETY: the caller promises room; it is written before anyone reads it.
        let header = unsafe {
            let header = &raw mut (*map).header;
            header.write(NodeBase { color: RED, parent: std::ptr::null_mut(), left: header, right: header });
            (*map).compare = 0;
            (*map).count = 0;
            header
        };
        guard((), || {
            let mut nodes = Vec::new();
            for (device, value) in entries()? {
                // SAFETY: any size may be asked for.
                let node: *mut Node<V> = unsafe { libc::malloc(size_of::<Node<V>>()) }.cast();
                if node.is_null() {
                    nodes.into_iter().for_each(|(_, node): (_, *mut NodeBase)| {
                        // SAFETY: malloc gave it, and nobody else has it.
                        unsafe { libc::free(node.cast()) }
                    });
                    return Err(Error::Memory("a node of a map".into()));
                }
                let none = std::ptr::null_mut();
                let base = NodeBase { color: BLACK, parent: none, left: none, right: none };
                let key = device::buffer_type_of(device);
                // SAFETY: malloc gave room for it.
                unsafe { node.write(Node { base, key, value }) };
                nodes.push((key as usize, node.cast::<NodeBase>()));
            }
            nodes.sort_by_key(|(key, _)| *key);
            let nodes: Vec<*mut NodeBase> = nodes.into_iter().map(|(_, node)| node).collect();
            if let (Some(first), Some(last)) = (nodes.first(), nodes.last()) {
                // SAFETY: the map was made above and the nodes are its own; its destructor frees them as operator new's
                // memory, which is malloc's.
                unsafe {
                    let root = tree(&nodes, header, nodes.len().ilog2());
                    (*root).color = BLACK;
                    header.write(NodeBase { color: RED, parent: root, left: *first, right: *last });
                    (*map).count = nodes.len();
                }
            }
            Ok(())
        });
        map
    }

    /// Makes a tree of nodes in their order: all levels are full but the last, whose nodes are red. NULL of none.
    ///
    /// # Safety
    /// The nodes must be writable, and nobody else's.
    unsafe fn tree(nodes: &[*mut NodeBase], parent: *mut NodeBase, levels: u32) -> *mut NodeBase {
        let Some(node) = nodes.get(nodes.len() / 2).copied() else { return std::ptr::null_mut() };
        // SAFETY: the caller's promise.
        unsafe {
            (*node).color = if levels == 0 { RED } else { BLACK };
            (*node).parent = parent;
            (*node).left = tree(&nodes[..nodes.len() / 2], node, levels.saturating_sub(1));
            (*node).right = tree(&nodes[nodes.len() / 2 + 1..], node, levels.saturating_sub(1));
        }
        node
    }
}
