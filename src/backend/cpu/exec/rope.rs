//! Sines and cosines of a ubatch: computed once per run for every distinct rotation, shared by all layers.

use crate::backend::cpu::grow;
use crate::backend::cpu::memory::{Memory, Shared};
use crate::backend::cpu::threads::Member;
use crate::error::Error;
use crate::graph::plan::Plan;
use crate::graph::{Op, Rope, Source, ValueId};

/// The rotations that a plan uses. Kept between runs to keep its memory.
#[derive(Default)]
pub struct RopeTables {
    tables: Vec<Table>,
    /// For each value, the table of a rotation.
    table_of: Vec<u16>,
    angles: Vec<f32>,
}

/// The tables during a run.
pub struct Ropes<'a> {
    tables: &'a [Table],
    table_of: &'a [u16],
    angles: Shared<'a, f32>,
}

struct Table {
    rope: Rope,
    pos: ValueId,
    factors: Option<ValueId>,
    n_tokens: usize,
    offset: usize,
}

const NONE: u16 = u16::MAX;

impl RopeTables {
    /// Lists the rotations of a plan and makes room for them.
    pub fn prepare(&mut self, plan: &Plan) -> Result<(), Error> {
        self.tables.clear();
        self.table_of.clear();
        let mut size = 0;
        for (i, value) in plan.graph.values.iter().enumerate() {
            let mut table = NONE;
            if let Source::Node { op: Op::Rope(rope), inputs } = &value.source
                && plan.live[i]
            {
                let (pos, factors) = (inputs[1], inputs.get(2).copied());
                let same = |t: &Table| t.rope == *rope && t.pos == pos && t.factors == factors;
                let index = self.tables.iter().position(same).unwrap_or_else(|| {
                    let n_tokens = value.ne[2];
                    self.tables.push(Table { rope: *rope, pos, factors, n_tokens, offset: size });
                    size += n_tokens * rope.n_dims;
                    self.tables.len() - 1
                });
                table = index as u16;
            }
            self.table_of.push(table);
        }
        grow(&mut self.angles, size, 0.0)
    }

    /// The tables for a run.
    pub fn share(&mut self) -> Ropes<'_> {
        Ropes { tables: &self.tables, table_of: &self.table_of, angles: Shared::new(&mut self.angles) }
    }
}

impl Ropes<'_> {
    /// This thread's part of the tables.
    pub fn fill(&self, m: &Member<'_>, memory: &Memory<'_>) -> Result<(), Error> {
        let n_items: usize = self.tables.iter().map(|t| t.n_tokens).sum();
        while let Some(mut item) = m.take(n_items) {
            for table in self.tables {
                if item >= table.n_tokens {
                    item -= table.n_tokens;
                    continue;
                }
                let n_dims = table.rope.n_dims;
                // SAFETY: inputs and weights are constant.
                let pos = unsafe { memory.tensor(table.pos)?.word(item, [0; 3]) } as i32;
                let factors = match table.factors {
                    // SAFETY: weights are constant.
                    Some(id) => Some(unsafe { memory.tensor(id)?.floats([0; 3]) }),
                    None => None,
                };
                // SAFETY: each item is taken once, and its part of the table is its own.
                let (sin, cos) =
                    unsafe { self.angles.write(table.offset + item * n_dims, n_dims) }.split_at_mut(n_dims / 2);
                for (pair, (sin, cos)) in sin.iter_mut().zip(cos).enumerate() {
                    (*sin, *cos) = table.rope.sin_cos(pair, pos, factors.map_or(1.0, |f| f[pair]));
                }
                break;
            }
        }
        Ok(())
    }

    /// Sines and cosines of a rotation node for a token.
    pub fn of(&self, node: ValueId, token: usize) -> Option<(Rope, &[f32], &[f32])> {
        let table = self.tables.get(usize::from(*self.table_of.get(node.0 as usize)?))?;
        let n_dims = table.rope.n_dims;
        assert!(token < table.n_tokens);
        // SAFETY: tables are complete after the first barrier of a run.
        let angles = unsafe { self.angles.read(table.offset + token * n_dims, n_dims) };
        let (sin, cos) = angles.split_at(n_dims / 2);
        Some((table.rope, sin, cos))
    }
}
