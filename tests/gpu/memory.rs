//! What a device's memory is used for.

use super::models::offloaded;
use super::*;
use infer::backend::gpu::weights::device_size;
use infer::context::{Batch, Context, ContextParams};
use std::sync::atomic::Ordering;

fn decode(ctx: &mut Context, tokens: &[i32]) {
    ctx.decode(&Batch::new(tokens.len(), Some(tokens), None, 0).unwrap()).unwrap();
}

#[test]
fn nothing_is_made_for_tokens_like_those_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new("llama", "plain").write(folder.path());
    let Some(model) = offloaded(&path, 99) else { return };
    let mut ctx = Context::new(model, &ContextParams { n_ctx: 256, ..ContextParams::default() }).unwrap();
    decode(&mut ctx, &[1, 2, 3, 4, 5]);
    (0..8).for_each(|i| decode(&mut ctx, &[i]));
    // Other tests use the device too: a count that stays the same once is enough.
    let device = adapter().unwrap().open().unwrap();
    let unchanged = (0..50).any(|i| {
        let before = device.buffers_made.load(Ordering::Relaxed);
        decode(&mut ctx, &[i]);
        device.buffers_made.load(Ordering::Relaxed) == before
    });
    assert!(unchanged);
}

#[test]
fn memory_is_told_by_device() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny::new("llama", "plain");
    let path = tiny.write(folder.path());
    let Some(model) = offloaded(&path, 1 + tiny.n_layer as i32 / 2) else { return };
    let params = ContextParams { n_ctx: 256, ..ContextParams::default() };
    let mut ctx = Context::new(model.clone(), &params).unwrap();
    let before = ctx.memory_by_device();
    decode(&mut ctx, &[1, 2, 3, 4, 5]);
    let after = ctx.memory_by_device();
    let number = adapters().iter().position(|a| std::ptr::eq(a, adapter().unwrap()));
    let [(gpu, on_gpu), (cpu, on_cpu)] = &after[..] else { panic!("{after:?}") };
    assert_eq!((gpu, cpu), (&number, &None));
    assert!(on_gpu[0] > 0 && on_cpu[0] > 0 && on_gpu[0] + on_cpu[0] >= model.size() as usize, "{after:?}");
    assert!(on_gpu[1] > 0 && on_cpu[1] > 0 && on_gpu[1] + on_cpu[1] == ctx.state_size(), "{after:?}");
    assert!(on_gpu[2] > before[0].1[2], "results take memory: {before:?}, {after:?}");
}

/// Weights take what their planes do, and a spare mebibyte.
#[test]
fn weights_leave_no_holes() {
    let Some(adapter) = adapter() else { return };
    let make = |n: usize| -> Arc<Weight> {
        let data = Bytes::from(vec![0; DType::Q4K.row_size(256 * n)]);
        Arc::new(Weight { name: format!("w{n}"), dtype: DType::Q4K, ne: [256, n, 1, 1], data, part_of: None })
    };
    // Larger together than a binding of a software adapter.
    let tensors: Vec<_> = (0..9).map(|i| make(50_000 + 20_000 * i)).collect();
    let weights = Weights::new(adapter.open().unwrap(), &tensors);
    weights.upload_all(&tensors.iter().collect::<Vec<_>>(), &mut |_| true).unwrap();
    let needed: u64 = tensors.iter().map(|w| device_size(w)).sum();
    let spare = weights.size() - needed;
    assert!(spare < (1 << 20) + 9 * 64, "{spare} of {}", weights.size());
}
