//! (being written)
#![allow(missing_docs)]
pub type Token = i32;
pub struct Vocab {
    n: usize,
}
impl Vocab {
    pub fn load(meta: &crate::gguf::Gguf) -> crate::Result<Vocab> {
        Ok(Vocab { n: meta.find_array("tokenizer.ggml.tokens")?.map_or(0, |a| a.len()) })
    }
    pub fn n_tokens(&self) -> usize {
        self.n
    }
}
