//! SentencePiece's byte-pair model (Llama 1/2, Gemma, Mistral): neighbours join whenever their text is a token, the
//! token with the highest score first. Text that is no token is spelled in byte tokens.

use super::merge::{Join, Merger};
use super::unicode::announced_len;
use super::{Token, Vocab};
use crate::{Error, Result};

/// Appends the tokens of `text`, in which spaces are already escaped.
pub fn tokenize(vocab: &Vocab, text: &[u8], out: &mut Vec<Token>) -> Result<()> {
    let mut merger = Merger::default();
    let mut at = 0;
    while at < text.len() {
        let n = announced_len(text[at]).min(text.len() - at);
        merger.push(at, n, 0);
        at += n;
    }
    merger.run(|left, right| {
        let (start, end) = (left.start as usize, (right.start + right.len) as usize);
        if end - start > vocab.max_token_len {
            return None;
        }
        let id = vocab.find(&text[start..end])?;
        Some(Join { rank: descending(vocab.scores[id as usize]), id: 0 })
    });
    for symbol in merger.symbols() {
        let piece = &text[symbol.start as usize..(symbol.start + symbol.len) as usize];
        match vocab.find(piece) {
            Some(id) => out.push(id),
            None => piece.iter().try_for_each(|&byte| {
                out.push(byte_to_token(vocab, byte)?);
                Ok::<_, Error>(())
            })?,
        }
    }
    Ok(())
}

/// The token that stands for one byte: `<0xXX>`, else the byte as a text, else the unknown token.
pub fn byte_to_token(vocab: &Vocab, byte: u8) -> Result<Token> {
    vocab
        .find(format!("<0x{byte:02X}>").as_bytes())
        .or_else(|| vocab.find(&[byte]))
        .or(Some(vocab.unk()).filter(|&id| id >= 0))
        .ok_or_else(|| {
            Error::format(format!("the vocabulary has neither a token for byte {byte:#04x} nor for unknown"))
        })
}

/// Ranks that ascend as scores descend.
fn descending(score: f32) -> u32 {
    // Adding 0.0 makes -0.0 equal to 0.0; the bits of positive floats order as they do, those of negative ones backwards.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { !(bits | 1 << 31) } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_order_scores_backwards() {
        let scores = [f32::INFINITY, 3.5, 1.0, 0.0, -1.0, -2.5, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|pair| descending(pair[0]) < descending(pair[1])));
        assert_eq!(descending(0.0), descending(-0.0));
    }
}
