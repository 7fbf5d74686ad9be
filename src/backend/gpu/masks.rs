//! The masks of a run as the attention kernel reads them: see `visible_rows` in `attention.wgsl`.

use crate::error::{Error, Result};
use crate::graph::Mask;

/// Words of a mask's header.
const HEADER: usize = 8;

/// A packed copy, whose buffer is reused.
#[derive(Default)]
pub struct Masks {
    words: Vec<u32>,
}

impl Masks {
    /// Packs masks: a header for each, then their rows, bitmaps and positions.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: more than 4 Gi words.
    pub fn pack(&mut self, masks: &[Mask]) -> Result<&[u32]> {
        let words = &mut self.words;
        words.clear();
        words.resize(HEADER * masks.len(), 0);
        for (i, mask) in masks.iter().enumerate() {
            let at = |words: &Vec<u32>| {
                u32::try_from(words.len()).map_err(|_| Error::Unsupported("masks of this size on a GPU".into()))
            };
            words[HEADER * i] = at(words)?;
            for row in &mask.rows {
                words.extend([row.start, row.end, row.bits.unwrap_or(u32::MAX), 0]);
            }
            words[HEADER * i + 1] = at(words)?;
            words.extend(mask.words.iter().flat_map(|w| [*w as u32, (*w >> 32) as u32]));
            words[HEADER * i + 2] = at(words)?;
            words.extend(mask.kv_pos.iter().map(|p| *p as u32));
            words[HEADER * i + 3] = at(words)?;
            words.extend(mask.q_pos.iter().map(|p| *p as u32));
        }
        if words.is_empty() {
            words.push(0);
        }
        Ok(words)
    }
}
