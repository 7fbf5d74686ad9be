//! Where a file's bytes come from and how they are kept: mapped, or read into memory. Used by `reader` and `split`.

use crate::error::{Error, Result};
use memmap2::{Mmap, MmapMut, MmapOptions};
use std::fs::File;
use std::ops::{Deref, Range};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Direct reads need offsets, lengths and addresses at multiples of this; mappings start at such addresses anyway.
pub(super) const PAGE: u64 = 4096;

/// How much is read between two progress reports.
const CHUNK: usize = 16 << 20;

/// How tensor data gets into memory: `llama_load_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadMode {
    /// The best for the machine: the mapping, here.
    #[default]
    Auto,
    /// Read into memory.
    None,
    /// Map the file; pages come in when touched and stay shared with other processes.
    Mmap,
    /// Read into memory and keep it from being swapped.
    Mlock,
    /// Map the file and keep its pages in memory.
    MmapMlock,
    /// Read into memory past the page cache; as [`LoadMode::None`] where the file system cannot.
    DirectIo,
}

impl LoadMode {
    /// Whether tensor data is used where the file is mapped.
    pub fn maps(self) -> bool {
        matches!(self, LoadMode::Auto | LoadMode::Mmap | LoadMode::MmapMlock)
    }

    /// Whether memory is locked.
    pub fn locks(self) -> bool {
        matches!(self, LoadMode::Mlock | LoadMode::MmapMlock)
    }
}

/// A GGUF to be opened.
pub enum Source {
    /// A file by name; its split siblings are found by their names.
    Path(PathBuf),
    /// An open file from `offset` on, e.g. a GGUF inside a larger file. The file's own position does not move.
    File {
        /// The file, readable.
        file: File,
        /// Where the GGUF starts.
        offset: u64,
    },
    /// A GGUF in memory.
    Bytes(Vec<u8>),
}

/// Bytes that stay where they are as long as this object lives: a mapped file, or memory. Shared between threads by `Arc`.
pub struct Storage {
    memory: Memory,
    name: String,
}

enum Memory {
    File(Mmap),
    /// Anonymous, read-only by now.
    Map(Mmap),
    Heap(Box<[u8]>),
}

impl Storage {
    /// Maps the whole of `file`; `name` is for messages.
    pub fn map(file: &File, name: impl Into<String>) -> Result<Storage> {
        let name = name.into();
        let len = file_len(file, &name)?;
        if len == 0 {
            return Ok(Storage { memory: Memory::Heap(Box::default()), name });
        }
        // SAFETY: the mapping is private and read-only. Another process that changes the file meanwhile changes values, not
        // their validity as bytes; headers are parsed into owned numbers once, so that no check can be outdated by it.
        let map = unsafe { MmapOptions::new().map(file) }.map_err(|e| Error::io(format!("map '{name}'"), e))?;
        Ok(Storage { memory: Memory::File(map), name })
    }

    /// Reads `range` of `file` into page-aligned memory. `progress` is told the number of bytes read by each step and
    /// returns `false` to stop with [`Error::Aborted`].
    pub fn read(
        file: &File,
        name: impl Into<String>,
        range: Range<u64>,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Storage> {
        let name = name.into();
        let len = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| Error::Memory(format!("'{name}' is larger than the address space")))?;
        if len == 0 {
            return Ok(Storage { memory: Memory::Heap(Box::default()), name });
        }
        let mut buffer = page_aligned(len, &name)?;
        let mut done = 0;
        while done < len {
            let end = len.min(done + CHUNK);
            let at = range.start + done as u64;
            file.read_exact_at(&mut buffer[done..end], at)
                .map_err(|e| Error::io(format!("read '{name}' at {at}"), e))?;
            if !progress((end - done) as u64) {
                return Err(Error::Aborted);
            }
            done = end;
        }
        Storage::frozen(buffer, name)
    }

    /// As [`Storage::read`], past the page cache. `range.start` is a multiple of 4096. `None` where the file system
    /// refuses.
    pub(super) fn read_direct(
        path: &Path,
        range: Range<u64>,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Storage>> {
        let name = path.display().to_string();
        let Ok(file) = File::options().read(true).custom_flags(libc::O_DIRECT).open(path) else { return Ok(None) };
        let len = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| Error::Memory(format!("'{name}' is larger than the address space")))?;
        if len == 0 {
            return Ok(None);
        }
        let mut buffer = page_aligned(len.next_multiple_of(PAGE as usize), &name)?;
        let mut done = 0;
        while done < len {
            let end = buffer.len().min(done + CHUNK);
            let at = range.start + done as u64;
            // A read that ends in the middle of a page met the end of the file, or is finished by the ordinary way.
            let Ok(n) = file.read_at(&mut buffer[done..end], at) else { return Ok(None) };
            let n = n.min(len - done);
            if n == 0 || (done + n < len && !(n as u64).is_multiple_of(PAGE)) {
                return Ok(None);
            }
            if !progress(n as u64) {
                return Err(Error::Aborted);
            }
            done += n;
        }
        Storage::frozen(buffer, name).map(Some)
    }

    /// A page-aligned copy of `bytes`, so that tensors in it are aligned as they are in a mapped file.
    pub fn from_bytes(bytes: &[u8], name: impl Into<String>) -> Result<Storage> {
        let name = name.into();
        if bytes.is_empty() {
            return Ok(Storage { memory: Memory::Heap(Box::default()), name });
        }
        let mut buffer = page_aligned(bytes.len(), &name)?;
        buffer[..bytes.len()].copy_from_slice(bytes);
        Storage::frozen(buffer, name)
    }

    /// No bytes.
    pub(super) fn empty(name: impl Into<String>) -> Storage {
        Storage { memory: Memory::Heap(Box::default()), name: name.into() }
    }

    /// `len` bytes that `fill` writes, page-aligned and zeroed before.
    pub(super) fn filled(
        len: usize,
        name: impl Into<String>,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Storage> {
        let name = name.into();
        if len == 0 {
            return Ok(Storage::empty(name));
        }
        let mut buffer = page_aligned(len, &name)?;
        fill(&mut buffer)?;
        Storage::frozen(buffer, name)
    }

    fn frozen(buffer: MmapMut, name: String) -> Result<Storage> {
        let map = buffer.make_read_only().map_err(|e| Error::io(format!("protect memory of '{name}'"), e))?;
        Ok(Storage { memory: Memory::Map(map), name })
    }

    /// All the bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::File(map) | Memory::Map(map) => map,
            Memory::Heap(bytes) => bytes,
        }
    }

    /// The file's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Keeps the pages in memory; a refusal (a limit of the system) is logged and harmless.
    pub fn lock(&self) {
        if let Memory::File(map) | Memory::Map(map) = &self.memory
            && let Err(e) = map.lock()
        {
            log::warn!("cannot lock {} bytes of '{}' in memory: {e}", map.len(), self.name);
        }
    }

    /// Asks the system to read the mapping ahead.
    pub fn prefetch(&self) {
        if let Memory::File(map) = &self.memory
            && let Err(e) = map.advise(memmap2::Advice::WillNeed)
        {
            log::debug!("cannot read '{}' ahead: {e}", self.name);
        }
    }

    /// Drops the pages that lie within `range` from memory, if a file is mapped; they are read again when touched.
    pub(super) fn release(&self, range: Range<usize>) {
        let Memory::File(map) = &self.memory else { return };
        let (start, end) = (range.start.next_multiple_of(PAGE as usize), range.end / PAGE as usize * PAGE as usize);
        if start >= end || end > map.len() {
            return;
        }
        // SAFETY: the pages are those of a private mapping that nothing writes to, so that what is read again is the same;
        // `end` was checked against the map.
        let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
        if let Err(e) = advised {
            log::debug!("cannot drop pages of '{}': {e}", self.name);
        }
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Storage('{}', {} bytes)", self.name, self.bytes().len())
    }
}

/// A part of a [`Storage`] that it keeps alive. Cheap to clone.
#[derive(Clone)]
pub struct Bytes {
    storage: Arc<Storage>,
    start: usize,
    len: usize,
}

impl Bytes {
    /// `range` of `storage`; `None` when it is not inside.
    pub fn new(storage: &Arc<Storage>, range: Range<usize>) -> Option<Bytes> {
        storage.bytes().get(range.clone())?;
        Some(Bytes { storage: storage.clone(), start: range.start, len: range.len() })
    }

    /// A part of it; `None` when `range` is not inside.
    pub fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        self.get(range.clone())?;
        Some(Bytes { storage: self.storage.clone(), start: self.start + range.start, len: range.len() })
    }

    /// Drops the pages that are its own from memory, if a file is mapped; they are read again when touched.
    pub fn release(&self) {
        self.storage.release(self.start..self.start + self.len);
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage.bytes()[self.start..self.start + self.len]
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        let len = bytes.len();
        let storage = Storage { memory: Memory::Heap(bytes.into()), name: "memory".into() };
        Bytes { storage: Arc::new(storage), start: 0, len }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Bytes) -> bool {
        **self == **other
    }
}

/// The length of a regular file.
pub(super) fn file_len(file: &File, name: &str) -> Result<u64> {
    let meta = file.metadata().map_err(|e| Error::io(format!("stat '{name}'"), e))?;
    if meta.is_dir() {
        return Err(Error::format(format!("'{name}' is a directory")));
    }
    Ok(meta.len())
}

fn page_aligned(len: usize, name: &str) -> Result<MmapMut> {
    MmapMut::map_anon(len).map_err(|e| Error::Memory(format!("{len} bytes for '{name}': {e}")))
}
