//! Which adapters a context uses. Graphs hold them, so that a change makes new ones necessary.

use super::Context;
use super::graphs::Plans;
use crate::error::{Error, Result};
use crate::model::adapter::Lora;
use std::ops::RangeInclusive;
use std::sync::Arc;

impl Context {
    /// Uses these adapters from the next batch on, each with its scale, and no others.
    ///
    /// # Errors
    /// [`Error::Argument`] for an adapter of another model, or a scale that is no number. Nothing has changed then.
    pub fn set_loras(&mut self, loras: &[(Arc<Lora>, f32)]) -> Result<()> {
        if self.adapters.set_loras(&self.model, loras)? {
            self.plans = Plans::default();
        }
        Ok(())
    }

    /// Adds control vectors of `n_embd` values to what leaves the given layers, from the next batch on: `data` begins with
    /// that of layer 1. `None` ends it.
    ///
    /// # Errors
    /// [`Error::Argument`] when the model's embeddings have another length. Nothing has changed then.
    pub fn set_control_vector(
        &mut self,
        data: Option<&[f32]>,
        n_embd: usize,
        layers: RangeInclusive<i32>,
    ) -> Result<()> {
        let hp = self.model.hparams()?;
        let changed = match data {
            None => self.adapters.clear_control(),
            Some(_) if n_embd != hp.n_embd => {
                let expected = hp.n_embd;
                return Err(Error::argument(format!("a control vector of {n_embd} values, the model has {expected}")));
            }
            Some(data) => {
                self.adapters.set_control(n_embd, hp.n_layer, data, layers);
                true
            }
        };
        if changed {
            self.plans = Plans::default();
        }
        Ok(())
    }
}
