//! Decoding takes nothing from the heap once it has seen its shapes. The only test of its binary: allocations of all threads
//! are counted.

mod common;

use common::engine::Ours;
use common::tiny::Tiny;
use infer::context::{Batch, Context, ContextParams};
use infer::memory::SeqIds;
use infer::quant::DType;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

fn count() {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(p, layout) }
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(p, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Tokens of each sequence before those that count. What grows with a text, lists of cells and bitmaps, doubles now and then;
/// it does not from here on to the end.
const N_WARM: i32 = 65;
const N_STEADY: usize = 40;
/// Tokens that are counted together.
const N_ROUND: usize = 8;

/// Decodes a token of each sequence at every one of the positions.
fn decode(context: &mut Context, n_seq: i32, positions: std::ops::Range<i32>, seqs: &SeqIds) {
    let (tokens, marks) = ([7; 4], [1; 4]);
    let n = n_seq as usize;
    for at in positions {
        let pos = [at; 4];
        let batch = Batch::new(n, Some(&tokens[..n]), None, 0).unwrap();
        let batch = batch.with_pos(&pos[..n]).unwrap().with_seq_ids(seqs).unwrap().with_logits(&marks[..n]).unwrap();
        context.decode(&batch).unwrap();
    }
}

#[test]
fn a_warm_context_decodes_without_allocating() {
    let folder = tempfile::tempdir().unwrap();
    let wide = |name| Tiny { n_embd: 256, head: 64, n_ff: 256, dtype: DType::Q4K, ..Tiny::new("llama", name) };
    let models = [
        Tiny::new("llama", "plain"),
        wide("quantized"),
        Tiny { n_expert: 4, n_expert_used: 2, ..wide("experts") },
        Tiny { window: 8, ..Tiny::new("gemma3", "window") },
    ];
    for tiny in models {
        let model = Ours::load(&tiny.write(folder.path()));
        for (n_seq, kv_unified, type_k, embeddings) in [
            (1, false, DType::F16, false),
            (1, false, DType::Q8_0, true),
            (3, false, DType::F16, false),
            (3, true, DType::F16, false),
        ] {
            for n_threads in [1, 2] {
                let params = ContextParams {
                    n_ctx: 1024,
                    n_seq_max: n_seq as u32,
                    n_threads,
                    n_threads_batch: n_threads,
                    kv_unified,
                    type_k,
                    embeddings,
                    ..ContextParams::default()
                };
                let mut context = Context::new(model.clone(), &params).unwrap();
                let mut seqs = SeqIds::default();
                (0..n_seq).for_each(|seq| seqs.push(&[seq]));
                decode(&mut context, n_seq, 0..N_WARM, &seqs);
                let counts: [usize; N_STEADY / N_ROUND] = std::array::from_fn(|round| {
                    let before = ALLOCATIONS.load(Ordering::Relaxed);
                    let from = N_WARM + (round * N_ROUND) as i32;
                    decode(&mut context, n_seq, from..from + N_ROUND as i32, &seqs);
                    ALLOCATIONS.load(Ordering::Relaxed) - before
                });
                // A second thread may get its first item of some kind late, and the memory for it then.
                let n = if n_threads == 1 { counts.iter().sum() } else { counts.into_iter().min().unwrap_or(1) };
                assert_eq!(n, 0, "{}: {counts:?} with {params:?}", tiny.name);
            }
        }
    }
}
