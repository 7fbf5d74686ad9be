//! Results that the next product reads as bytes: the kernel that computes them writes both, so that no dispatch of its own
//! turns one into the other. A norm in between costs none either, see `emit.wgsl`.

use super::linear::{FEW, UNIT};
use super::*;
use crate::backend::gpu::shader::is_fast;
use crate::graph::fuse::Linear;
use crate::graph::{Norm, NormKind};
use std::collections::HashMap;

/// Results kept as bytes at a time: more than lie between a product and those that read it.
const SLOTS: usize = 4;

/// A result as bytes.
#[derive(Clone, Copy)]
pub(super) struct Handed {
    /// The norm that it is for, whose weight is in the bytes.
    pub norm: Option<ValueId>,
    /// First words of the bytes, of their scales, of the sums of squares (of as many words as 32 elements are one).
    pub bytes: usize,
    pub scales: usize,
    pub squares: usize,
    slot: usize,
}

/// Which results are wanted as bytes, and which are there.
#[derive(Default)]
pub(super) struct Hands {
    wanted: HashMap<ValueId, Option<ValueId>>,
    there: HashMap<ValueId, Handed>,
    /// First word of the slots, and words of each.
    at: usize,
    size: usize,
    next: usize,
}

impl Compiler<'_> {
    /// Finds what products of few tokens read, and makes room for it.
    pub(super) fn find_wanted(&mut self) -> Result<()> {
        let plan = self.plan;
        for step in &plan.steps {
            let Step::Linear(l) = step else { continue };
            let x = self.value(l.x);
            let (k, n) = (x.ne[0], x.ne[1]);
            let Some(owner) = self.whole(l.x).filter(|_| n <= FEW && k.is_multiple_of(UNIT)) else { continue };
            if l.norm.is_some_and(|norm| !self.is_plain_norm(norm)) || !self.is_fast_linear(l) || self.takes_tiles(l)? {
                continue;
            }
            self.hands.wanted.entry(owner).or_insert(l.norm);
            let words = [n * k / 4, n * k / 8, n * k / 32].map(|w| w.next_multiple_of(ALIGN)).iter().sum();
            self.hands.size = self.hands.size.max(words);
        }
        self.hands.at = self.scratch_base;
        self.scratch_base += SLOTS * self.hands.size;
        self.most = self.most.max(self.scratch_base);
        Ok(())
    }

    /// The value that is all of `id`'s memory, if it is that alone.
    fn whole(&self, id: ValueId) -> Option<ValueId> {
        let (owner, offset) = self.plan.graph.resolve(id);
        let (v, o) = (self.value(id), self.value(owner));
        (offset == 0 && v.is_contiguous() && v.n_elements() == o.n_elements()).then_some(owner)
    }

    /// A root mean square without a bias.
    fn is_plain_norm(&self, norm: ValueId) -> bool {
        matches!(self.op(norm), Ok((Op::Norm(Norm { kind: NormKind::Rms, .. }), inputs)) if inputs.len() <= 2)
    }

    fn is_fast_linear(&self, l: &Linear) -> bool {
        l.mats.iter().any(|mat| is_fast(self.value(mat.w).dtype))
    }

    /// Where the result `id` of `k` elements for each of `n` tokens goes as bytes, if it is wanted so, and for a norm only if
    /// the kernel can.
    pub(super) fn hand(&mut self, id: ValueId, k: usize, n: usize, norms: bool) -> Option<Handed> {
        let norm = *self.hands.wanted.get(&id)?;
        if norm.is_some() && !norms {
            return None;
        }
        if !k.is_multiple_of(UNIT) || n > FEW || self.value(id).n_elements() != k * n {
            return None;
        }
        let slot = self.hands.next % SLOTS;
        self.hands.next += 1;
        self.hands.there.retain(|_, handed| handed.slot != slot);
        let bytes = self.hands.at + slot * self.hands.size;
        let scales = bytes + (n * k / 4).next_multiple_of(ALIGN);
        let squares = scales + (n * k / 8).next_multiple_of(ALIGN);
        let handed = Handed { norm, bytes, scales, squares, slot };
        self.hands.there.insert(id, handed);
        Some(handed)
    }

    /// The bytes of a product's activations, if they are there.
    pub(super) fn handed(&self, l: &Linear) -> Option<Handed> {
        let handed = self.hands.there.get(&self.whole(l.x)?)?;
        (handed.norm == l.norm).then_some(*handed)
    }

    /// Takes back what `hand` gave: nothing writes it.
    pub(super) fn unhand(&mut self, handed: Handed) {
        self.hands.there.retain(|_, other| other.slot != handed.slot);
    }
}
