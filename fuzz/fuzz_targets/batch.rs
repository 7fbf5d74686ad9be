//! The batch validator on arbitrary batches, one after the other on one memory: what it accepts can be cut into ubatches
//! that hold every token once, and placed.
#![no_main]

use infer::context::batch::{Batch, BatchData, BatchRules, Outputs};
use infer::context::ubatch::Ubatches;
use infer::memory::{Memory, MemoryConfig, Reservation, Rows, SeqIds, Window};
use libfuzzer_sys::fuzz_target;

const N_SEQ: u32 = 4;
const N_UBATCH: u32 = 8;

/// Takes small numbers from the input; 0 when it is used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// Mostly a number of a few bits, sometimes an extreme one.
    fn number(&mut self, near: i32) -> i32 {
        match self.byte() {
            0xff => i32::MAX,
            0xfe => i32::MIN,
            0xfd => -1,
            b => near + i32::from(b % 4),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let flags = input.byte();
    let mut memory = Memory::new(&MemoryConfig {
        n_ctx_seq: 64,
        n_seq_max: N_SEQ,
        n_ubatch: N_UBATCH,
        kv_unified: flags & 1 != 0,
        window: if flags & 2 != 0 { Window::Standard(8) } else { Window::None },
        swa_full: flags & 4 != 0,
        can_rotate: true,
    });
    let rules = BatchRules {
        n_tokens_max: 32,
        n_vocab: 4,
        n_embd: 2,
        n_seq_max: N_SEQ,
        outputs: if flags & 8 != 0 { Outputs::All } else { Outputs::Marked },
    };
    let mut data = BatchData::default();
    let mut ubatches = Ubatches::default();
    let mut reservation = Reservation::default();
    while !input.0.is_empty() {
        decode(&mut input, &rules, &mut memory, &mut data, &mut ubatches, &mut reservation);
        let (seq, p0, p1) = (input.number(-1), input.number(-1), input.number(0));
        let _ = match input.byte() % 8 {
            0 => memory.seq_rm(seq, p0, p1).map(|_| ()),
            1 => memory.seq_cp(seq, input.number(0), p0, p1),
            2 => memory.seq_keep(seq),
            3 => memory.seq_add(seq, p0, p1, input.number(-2)),
            4 => memory.seq_div(seq, p0, p1, input.number(1)),
            _ => Ok(()),
        };
        for seq in -1..=N_SEQ as i32 {
            let _ = (memory.pos_min(seq), memory.pos_max(seq));
        }
    }
});

fn decode(
    input: &mut Input,
    rules: &BatchRules,
    memory: &mut Memory,
    data: &mut BatchData,
    ubatches: &mut Ubatches,
    reservation: &mut Reservation,
) {
    let n_tokens = usize::from(input.byte() % 40);
    let has = input.byte();
    let next = memory.pos_max(0).map_or(0, |p| p.saturating_add(1));
    let tokens: Vec<i32> = (0..n_tokens).map(|_| input.number(0)).collect();
    let embd = vec![0.5; n_tokens * 2];
    let pos: Vec<i32> = (0..n_tokens as i32).map(|i| input.number(next.wrapping_add(i))).collect();
    let logits: Vec<i8> = (0..n_tokens).map(|_| input.byte() as i8).collect();
    let mut seq_ids = SeqIds::default();
    for _ in 0..n_tokens {
        let n = input.byte() % 3;
        let ids: Vec<i32> = (0..n).map(|_| input.number(0)).collect();
        seq_ids.push(&ids);
    }
    let made = Batch::new(n_tokens, (has & 1 == 0).then_some(&tokens[..]), (has & 2 != 0).then_some(&embd[..]), 2)
        .and_then(|b| if has & 4 != 0 { b.with_pos(&pos) } else { Ok(b) })
        .and_then(|b| if has & 8 != 0 { b.with_seq_ids(&seq_ids) } else { Ok(b) })
        .and_then(|b| if has & 16 != 0 { b.with_logits(&logits) } else { Ok(b) });
    let Ok(batch) = made else { return };
    if data.fill(&batch, rules, Some(memory)).is_err() {
        return;
    }
    for &split in memory.splits() {
        if ubatches.split(data, split, N_UBATCH as usize).is_err() {
            continue;
        }
        let mut seen = vec![0; n_tokens];
        for ubatch in ubatches.get() {
            assert!((1..=N_UBATCH as usize).contains(&ubatch.n_tokens()));
            ubatch.batch_idxs.iter().for_each(|&i| seen[i as usize] += 1);
        }
        assert!(seen.iter().all(|&n| n == 1), "tokens are in ubatches {seen:?} times");
        if memory.reserve(ubatches.get().iter().map(|u| u.placed()), reservation).is_err() {
            continue;
        }
        for (i, ubatch) in ubatches.get().iter().enumerate() {
            memory.apply(ubatch.placed(), reservation, i);
            if has & 32 != 0 {
                memory.rollback(if has & 64 != 0 { Rows::Written } else { Rows::Untouched });
                return;
            }
            memory.commit();
        }
        return;
    }
}
