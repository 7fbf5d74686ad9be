//! Files with a state and the tokens that led to it: sessions, which hold everything, and files of one sequence. Their format
//! is llama.cpp's: magic number, version, number of tokens, tokens, state. Called by `capi`.

use super::Context;
use super::state::{Scope, Sink};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::graph::StateId;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path;

/// `LLAMA_SESSION_MAGIC` and `LLAMA_SESSION_VERSION`.
const SESSION: [u32; 2] = [0x6767_736e, 10];

/// `LLAMA_STATE_SEQ_MAGIC` and `LLAMA_STATE_SEQ_VERSION`.
const SEQUENCE: [u32; 2] = [0x6767_7371, 3];

/// Bytes before the tokens.
const HEADER: usize = 12;

/// Rows are copied in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// What a file holds beside the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The tokens that were saved with the state.
    pub tokens: Vec<i32>,
    /// Bytes of the file up to the end of its state.
    pub n_bytes: usize,
}

impl Context {
    /// Writes a file with everything that is remembered, and tokens for the caller's own use.
    pub fn save_session(&mut self, path: &Path, tokens: &[i32]) -> Result<()> {
        self.save_file(path, SESSION, Scope::Whole, tokens).map(|_| ())
    }

    /// Restores what [`Context::save_session`] wrote.
    ///
    /// # Errors
    /// As [`Context::load_state`], also for files with more than `max_tokens` tokens or with more than a state behind them.
    /// Nothing has changed then.
    pub fn load_session(&mut self, path: &Path, max_tokens: usize) -> Result<Session> {
        self.load_file(path, SESSION, Scope::Whole, max_tokens)
    }

    /// Writes a file with one sequence, and tokens for the caller's own use. Returns its size in bytes.
    pub fn save_seq(&mut self, path: &Path, seq: Option<i32>, tokens: &[i32]) -> Result<usize> {
        self.save_file(path, SEQUENCE, Scope::SeqFile(seq), tokens)
    }

    /// Restores what [`Context::save_seq`] wrote, into any sequence.
    ///
    /// # Errors
    /// As [`Context::load_session`], but bytes behind the state do no harm.
    pub fn load_seq(&mut self, path: &Path, seq: Option<i32>, max_tokens: usize) -> Result<Session> {
        self.load_file(path, SEQUENCE, Scope::SeqFile(seq), max_tokens)
    }

    fn save_file(&mut self, path: &Path, kind: [u32; 2], scope: Scope, tokens: &[i32]) -> Result<usize> {
        let n_tokens = u32::try_from(tokens.len())
            .map_err(|_| Error::argument(format!("{} tokens for a session file", tokens.len())))?;
        let n = self.saved_size(scope)?;
        let file = File::create(path).map_err(|e| Error::io(format!("creating {}", path.display()), e))?;
        let mut sink = FileSink { file, path, buffer: Vec::new() };
        for number in [kind[0], kind[1], n_tokens] {
            sink.put(&number.to_le_bytes())?;
        }
        tokens.iter().try_for_each(|token| sink.put(&token.to_le_bytes()))?;
        self.save_state_to(scope, &mut sink)?;
        sink.flush()?;
        Ok(HEADER + 4 * tokens.len() + n)
    }

    fn load_file(&mut self, path: &Path, kind: [u32; 2], scope: Scope, max_tokens: usize) -> Result<Session> {
        let mut file = open(path, kind)?;
        if file.n_tokens as usize > max_tokens {
            let found = file.n_tokens;
            return Err(Error::argument(format!("{} has {found} tokens, room is for {max_tokens}", path.display())));
        }
        let bytes = file.read_rest(path)?;
        let n_token_bytes = 4 * file.n_tokens as usize;
        let (tokens, mut state) = bytes
            .split_at_checked(n_token_bytes)
            .ok_or_else(|| Error::format(format!("{} is cut off in its tokens", path.display())))?;
        let parsed = self.parse_state(scope, &mut state)?;
        if scope == Scope::Whole && !state.is_empty() {
            return Err(Error::format(format!("{} has {} bytes behind its state", path.display(), state.len())));
        }
        let n_bytes = HEADER + n_token_bytes + parsed.n_bytes;
        let (tokens, _) = tokens.as_chunks();
        let tokens = tokens.iter().map(|&token| i32::from_le_bytes(token)).collect();
        self.restore(scope, parsed)?;
        Ok(Session { tokens, n_bytes })
    }
}

/// The number of tokens in a file of one sequence.
pub fn count_seq_tokens(path: &Path) -> Result<usize> {
    let file = open(path, SEQUENCE)?;
    let most = file.n_rest / 4;
    if u64::from(file.n_tokens) > most {
        return Err(Error::format(format!("{} says that it has {} tokens", path.display(), file.n_tokens)));
    }
    Ok(file.n_tokens as usize)
}

/// A file behind its header.
struct Opened {
    file: File,
    n_tokens: u32,
    n_rest: u64, // bytes of tokens and state
}

fn open(path: &Path, kind: [u32; 2]) -> Result<Opened> {
    let failed = |e| Error::io(format!("reading {}", path.display()), e);
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut header = [0; HEADER];
    file.read_exact(&mut header).map_err(failed)?;
    let number = |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    let found = [number(0), number(4)];
    if found != kind {
        let ([magic, version], [found_magic, found_version]) = (kind, found);
        return Err(Error::format(format!(
            "{} begins with {found_magic:#x}, version {found_version}, not {magic:#x}, version {version}",
            path.display()
        )));
    }
    Ok(Opened { file, n_tokens: number(8), n_rest: size.saturating_sub(HEADER as u64) })
}

impl Opened {
    fn read_rest(&mut self, path: &Path) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let n = usize::try_from(self.n_rest).unwrap_or(usize::MAX);
        bytes.try_reserve_exact(n).map_err(|e| Error::Memory(format!("{}: {e}", path.display())))?;
        // What is appended meanwhile is not for us.
        let read = (&mut self.file).take(self.n_rest).read_to_end(&mut bytes);
        read.map_err(|e| Error::io(format!("reading {}", path.display()), e))?;
        Ok(bytes)
    }
}

/// Writes a file in large pieces.
struct FileSink<'a> {
    file: File,
    path: &'a Path,
    buffer: Vec<u8>,
}

impl FileSink<'_> {
    fn flush(&mut self) -> Result<()> {
        let written = self.file.write_all(&self.buffer);
        written.map_err(|e| Error::io(format!("writing {}", self.path.display()), e))?;
        self.buffer.clear();
        Ok(())
    }
}

impl Sink for FileSink<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn put_state(&mut self, backend: &dyn Backend, id: StateId, part: Range<usize>) -> Result<()> {
        for start in part.clone().step_by(PIECE) {
            let n = (part.end - start).min(PIECE);
            let at = self.buffer.len();
            self.buffer.resize(at + n, 0);
            backend.read_state(id, start, &mut self.buffer[at..])?;
            if self.buffer.len() >= PIECE {
                self.flush()?;
            }
        }
        Ok(())
    }
}
