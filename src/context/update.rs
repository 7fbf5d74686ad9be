//! Work that memory operations leave for the backend: copying rows between streams and rotating keys to new positions.
//! Done before the next decode, or when the caller asks.

use super::{Context, graphs};
use crate::error::Result;

impl Context {
    /// Carries out what `llama_memory_seq_cp`, `_add` and `_div` asked for; if that fails, the memory is empty afterwards.
    pub fn update_memory(&mut self) -> Result<()> {
        if !self.memory.as_ref().is_some_and(|m| m.has_updates()) {
            return Ok(());
        }
        let done = self.apply_updates();
        if done.is_err() {
            // Some rows have moved and others have not: nothing that is stored can be trusted.
            self.clear_memory(false)?;
        }
        done
    }

    fn apply_updates(&mut self) -> Result<()> {
        // Keys are moved by another plan, which takes the place of logits that a device kept.
        self.fetch_logits()?;
        let Some(memory) = self.memory.as_mut() else { return Ok(()) };
        let mut copies = Vec::new();
        for group in 0..memory.groups().len() {
            let cache = memory.group_mut(group);
            cache.take_copies(&mut copies);
            for layer in self.kv.iter().flatten().filter(|l| l.group as usize == group) {
                for (state, row) in
                    [(layer.k, self.backend.state_row_size(layer.k)), (layer.v, self.backend.state_row_size(layer.v))]
                {
                    for c in &copies {
                        let [src, dst, n] = [c.src, c.dst, c.n].map(|x| x as usize * row);
                        self.backend.copy_state(state, src, dst, n)?;
                    }
                }
            }
            let inputs = &mut self.work.inputs;
            inputs.kv_shift.resize_with(group + 1, Vec::new);
            inputs.kv_all_rows.resize_with(group + 1, Vec::new);
            let moved = cache.take_shifts(&mut inputs.kv_shift[group]);
            if !moved || self.model.def()?.rope.is_none() {
                continue;
            }
            inputs.kv_all_rows[group] = (0..cache.n_rows() as i32).collect();
            let plan = graphs::shift_plan(&self.model, &self.settings, &self.kv, group as u8)?;
            self.backend.set_n_threads(self.settings.n_threads_batch);
            self.backend.run(&plan, inputs, &mut [], &mut || false)?;
        }
        Ok(())
    }
}
