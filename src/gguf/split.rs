//! A model's file, or its split files, opened in one of the load modes and seen as one: every tensor knows the bytes that it
//! lives in. Used by `model`, quantization and the path functions of `capi`.

use super::file::{Bytes, LoadMode, PAGE, Source, Storage, file_len};
use super::reader::{Gguf, TensorInfo};
use crate::error::{Error, Result};
use crate::quant::DType;
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

const KEY_COUNT: &str = "split.count";
const KEY_NO: &str = "split.no";
const KEY_TENSORS: &str = "split.tensors.count";

/// Tensor data starts at multiples of this in memory, whatever the file does: enough for every element type.
const DATA_ALIGN: usize = 8;

/// How [`GgufFiles::open`] loads.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// How tensor data gets into memory.
    pub mode: LoadMode,
    /// Leaves tensor data in the file, for callers that want metadata or vocabulary alone.
    pub header_only: bool,
    /// The split files in order, the first one included; empty to derive their names from the first one's.
    pub splits: Vec<PathBuf>,
    /// Told the part done (0..=1) while data is read into memory; `false` stops with [`Error::Aborted`].
    pub progress: Option<&'a mut dyn FnMut(f32) -> bool>,
}

/// An open model: one GGUF or several splits of one.
#[derive(Debug)]
pub struct GgufFiles {
    parts: Vec<Part>,
    index: HashMap<String, (usize, usize)>, // name -> part, tensor
}

#[derive(Debug)]
struct Part {
    gguf: Gguf,
    data: Arc<Storage>,
    /// Where `data` starts in the file.
    data_start: u64,
}

/// A tensor's type, shape and bytes, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// The elements' type.
    pub dtype: DType,
    /// Elements per dimension, fastest first.
    pub ne: [u64; 4],
    /// Rows of whole blocks, back to back.
    pub bytes: &'a [u8],
}

/// A tensor's type, shape and bytes; keeps the file mapped, or its memory alive. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TensorData {
    /// The elements' type.
    pub dtype: DType,
    /// Elements per dimension, fastest first.
    pub ne: [u64; 4],
    bytes: Bytes,
}

impl TensorData {
    /// Rows of whole blocks, back to back, aligned for any element type.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, kept alive by itself.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The tensor, borrowed.
    pub fn view(&self) -> TensorView<'_> {
        TensorView { dtype: self.dtype, ne: self.ne, bytes: &self.bytes }
    }
}

impl GgufFiles {
    /// Opens a model and all its splits. With several splits `source` is the first one.
    pub fn open(source: Source, mut options: LoadOptions<'_>) -> Result<GgufFiles> {
        let first = Opened::new(source)?;
        let n_split = usize::from(first.gguf.find::<u16>(KEY_COUNT)?.unwrap_or(0));
        let mut opened = vec![first];
        if n_split > 1 {
            let paths = split_paths(&opened[0], n_split, &options.splits)?;
            for (no, path) in paths.into_iter().enumerate().skip(1) {
                let part = Opened::new(Source::Path(path))?;
                check_split_no(&part.gguf, no)?;
                opened.push(part);
            }
        }
        let files = GgufFiles::load(opened, &mut options)?;
        if n_split > 1 {
            let expected = files.meta().require::<i32>(KEY_TENSORS)?;
            let found = files.n_tensors();
            if usize::try_from(expected) != Ok(found) {
                let name = files.meta().name();
                return Err(Error::format(format!("'{name}': the splits hold {found} tensors, expected {expected}")));
            }
        }
        Ok(files)
    }

    /// A model of which there is only the header.
    pub fn from_header(gguf: Gguf) -> GgufFiles {
        let data = Arc::new(Storage::empty(gguf.name()));
        GgufFiles::of_part(Part { gguf, data, data_start: 0 })
    }

    /// A model in memory, whose tensors are laid out by `gguf`. `fill` writes each into zeroed memory.
    pub fn filled(mut gguf: Gguf, fill: &mut dyn FnMut(&TensorInfo, &mut [u8]) -> Result<()>) -> Result<GgufFiles> {
        gguf.data_offset = 0;
        let too_large = || Error::Memory(format!("tensors of {} bytes", gguf.data_size()));
        let size = usize::try_from(gguf.data_size()).map_err(|_| too_large())?;
        let data = Storage::filled(size, gguf.name(), |memory| {
            gguf.tensors().iter().try_for_each(|info| {
                let range = info.offset as usize..(info.offset + info.size) as usize;
                fill(info, memory.get_mut(range).ok_or_else(too_large)?)
            })
        })?;
        Ok(GgufFiles::of_part(Part { gguf, data: Arc::new(data), data_start: 0 }))
    }

    fn of_part(part: Part) -> GgufFiles {
        let names = part.gguf.tensors().iter().enumerate().map(|(i, info)| (info.name.clone(), (0, i)));
        GgufFiles { index: names.collect(), parts: vec![part] }
    }

    /// Metadata of the model: that of the first file.
    pub fn meta(&self) -> &Gguf {
        &self.parts[0].gguf
    }

    /// The same, e.g. to set overrides.
    pub fn meta_mut(&mut self) -> &mut Gguf {
        &mut self.parts[0].gguf
    }

    /// How many files.
    pub fn n_files(&self) -> usize {
        self.parts.len()
    }

    /// How many tensors in all files.
    pub fn n_tensors(&self) -> usize {
        self.index.len()
    }

    /// All tensors, file by file.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.parts.iter().flat_map(|part| part.gguf.tensors())
    }

    /// The tensors of file `i`, in its order.
    pub fn tensors_of(&self, i: usize) -> &[TensorInfo] {
        self.parts.get(i).map_or(&[], |part| part.gguf.tensors())
    }

    /// Gives back the memory in which the data of the tensor called `name` was mapped; it is read again if needed.
    pub fn release(&self, name: &str) {
        if let Some((part, info)) = self.locate(name)
            && let Some(range) = part.range(info)
        {
            part.data.release(range);
        }
    }

    /// Bytes of all tensors, padding not counted.
    pub fn n_bytes(&self) -> u64 {
        self.tensors().map(|t| t.size).sum()
    }

    /// The description of the tensor called `name`.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&(part, i)| &self.parts[part].gguf.tensors()[i])
    }

    /// The bytes of the tensor called `name`, borrowed; `None` when there is no such tensor or its data was not loaded.
    pub fn view(&self, name: &str) -> Option<TensorView<'_>> {
        let (part, info) = self.locate(name)?;
        let bytes = part.data.bytes().get(part.range(info)?)?;
        Some(TensorView { dtype: info.dtype, ne: info.ne, bytes })
    }

    /// The tensor called `name`, to be kept. Copies only what lies misaligned in its file.
    pub fn tensor(&self, name: &str) -> Result<TensorData> {
        let missing = || Error::tensor(name, format!("not in '{}'", self.meta().name()));
        let (part, info) = self.locate(name).ok_or_else(missing)?;
        let unloaded = || Error::tensor(name, "its data was not loaded");
        let mut bytes = Bytes::new(&part.data, part.range(info).ok_or_else(unloaded)?).ok_or_else(unloaded)?;
        if bytes.as_ptr().align_offset(DATA_ALIGN) != 0 {
            let copy = Arc::new(Storage::from_bytes(&bytes, name)?);
            bytes = Bytes::new(&copy, 0..bytes.len()).ok_or_else(unloaded)?;
        }
        Ok(TensorData { dtype: info.dtype, ne: info.ne, bytes })
    }

    /// Whether the data of the tensor called `name` is free of NaN and infinity: what `check_tensors` asks.
    pub fn check_tensor(&self, name: &str) -> Result<()> {
        match self.view(name) {
            Some(t) if crate::quant::validate(t.dtype, t.bytes) => Ok(()),
            Some(t) => Err(Error::tensor(name, format!("its {} data holds a NaN or an infinity", t.dtype))),
            None => Err(Error::tensor(name, "its data was not loaded")),
        }
    }

    fn load(opened: Vec<Opened>, options: &mut LoadOptions<'_>) -> Result<GgufFiles> {
        let mut files = GgufFiles { parts: Vec::new(), index: HashMap::new() };
        if !options.header_only {
            for part in &opened {
                part.gguf.check_data(&part.storage)?;
            }
        }
        let total: u64 = opened.iter().map(|part| part.data_len()).sum();
        let mut done = 0;
        let mut progress = |n: u64| {
            done += n;
            options.progress.as_mut().is_none_or(|report| report((done as f32 / total.max(1) as f32).min(1.0)))
        };
        for part in opened {
            let part = part.load(options.mode, options.header_only, &mut progress)?;
            for (i, tensor) in part.gguf.tensors().iter().enumerate() {
                if files.index.insert(tensor.name.clone(), (files.parts.len(), i)).is_some() {
                    return Err(Error::tensor(tensor.name.clone(), "two splits have it"));
                }
            }
            files.parts.push(part);
        }
        Ok(files)
    }

    fn locate(&self, name: &str) -> Option<(&Part, &TensorInfo)> {
        let &(part, i) = self.index.get(name)?;
        let part = &self.parts[part];
        Some((part, &part.gguf.tensors()[i]))
    }
}

impl Part {
    /// Where `info`'s bytes lie in `data`.
    fn range(&self, info: &TensorInfo) -> Option<std::ops::Range<usize>> {
        let start = (self.gguf.data_offset + info.offset).checked_sub(self.data_start)?;
        Some(usize::try_from(start).ok()?..usize::try_from(start + info.size).ok()?)
    }
}

/// A file whose header is parsed.
struct Opened {
    gguf: Gguf,
    storage: Arc<Storage>,
    origin: Origin,
}

/// Where tensor data can be read from again.
enum Origin {
    Path(File, PathBuf),
    File(File),
    Memory,
}

impl Opened {
    fn new(source: Source) -> Result<Opened> {
        let (storage, start, origin) = match source {
            Source::Path(path) => {
                let name = path.display().to_string();
                let file = File::open(&path).map_err(|e| Error::io(format!("open '{name}'"), e))?;
                (map_or_read(&file, &name)?, 0, Origin::Path(file, path))
            }
            Source::File { file, offset } => (map_or_read(&file, "(file)")?, offset, Origin::File(file)),
            Source::Bytes(bytes) => (Storage::from_bytes(&bytes, "memory")?, 0, Origin::Memory),
        };
        let storage = Arc::new(storage);
        let start = usize::try_from(start).unwrap_or(usize::MAX).min(storage.bytes().len());
        Ok(Opened { gguf: Gguf::parse(&storage, start)?, storage, origin })
    }

    fn data_len(&self) -> u64 {
        (self.storage.bytes().len() as u64).saturating_sub(self.gguf.data_offset).min(self.gguf.data_size())
    }

    fn load(self, mode: LoadMode, header_only: bool, progress: &mut dyn FnMut(u64) -> bool) -> Result<Part> {
        let Opened { ref gguf, ref storage, ref origin } = self;
        // Starting at a page keeps each tensor's alignment as it is in the file.
        let start = gguf.data_offset / PAGE * PAGE;
        let range = start..gguf.data_offset + self.data_len();
        let mut mapped = || -> Result<(Arc<Storage>, u64)> {
            if !header_only {
                storage.prefetch();
                if !progress(self.data_len()) {
                    return Err(Error::Aborted);
                }
            }
            Ok((storage.clone(), 0))
        };
        let (data, data_start) = if header_only || mode.maps() {
            mapped()?
        } else {
            match origin {
                Origin::Memory => mapped()?,
                Origin::File(file) => (Arc::new(Storage::read(file, gguf.name(), range, progress)?), start),
                Origin::Path(file, path) => {
                    let direct = match mode {
                        LoadMode::DirectIo => Storage::read_direct(path, range.clone(), progress)?,
                        LoadMode::Auto | LoadMode::None | LoadMode::Mmap | LoadMode::Mlock | LoadMode::MmapMlock => {
                            None
                        }
                    };
                    match direct {
                        Some(storage) => (Arc::new(storage), start),
                        None => (Arc::new(Storage::read(file, gguf.name(), range, progress)?), start),
                    }
                }
            }
        };
        if mode.locks() && !header_only {
            data.lock();
        }
        Ok(Part { gguf: self.gguf, data, data_start })
    }
}

/// Maps a file, or reads it where the file system cannot map.
fn map_or_read(file: &File, name: &str) -> Result<Storage> {
    match Storage::map(file, name) {
        Err(Error::Io { .. }) => Storage::read(file, name, 0..file_len(file, name)?, &mut |_| true),
        mapped => mapped,
    }
}

fn split_paths(first: &Opened, n_split: usize, given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let name = first.gguf.name();
    check_split_no(&first.gguf, 0)?;
    if !given.is_empty() {
        if given.len() != n_split {
            return Err(Error::argument(format!("{} split files given, '{name}' has {n_split}", given.len())));
        }
        return Ok(given.to_vec());
    }
    let path = match &first.origin {
        Origin::Path(_, path) => path,
        Origin::File(_) | Origin::Memory => {
            return Err(Error::Unsupported("a split model needs a path to find its other files".into()));
        }
    };
    // Names are bytes here, as paths need not be UTF-8.
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let Some(prefix) = split_prefix(path.as_os_str().as_bytes(), 0, n_split as i32) else {
        return Err(Error::format(format!(
            "'{name}' has {n_split} splits, but its name does not end as a split's does"
        )));
    };
    let paths = (0..n_split as i32).map(|no| split_path(prefix, no, n_split as i32));
    Ok(paths.map(|path| PathBuf::from(std::ffi::OsString::from_vec(path))).collect())
}

fn check_split_no(gguf: &Gguf, expected: usize) -> Result<()> {
    let no = gguf.require::<u16>(KEY_NO)?;
    if usize::from(no) != expected {
        return Err(Error::format(format!("'{}' is split {no}, expected split {expected}", gguf.name())));
    }
    Ok(())
}

/// The name of split `split_no` (from 0) of `split_count`: `<prefix>-00001-of-00003.gguf`.
pub fn split_path(prefix: &[u8], split_no: i32, split_count: i32) -> Vec<u8> {
    [prefix, split_suffix(split_no, split_count).as_bytes()].concat()
}

/// The prefix of a split's name; `None` unless `path` is that of split `split_no` of `split_count`, with a prefix.
pub fn split_prefix(path: &[u8], split_no: i32, split_count: i32) -> Option<&[u8]> {
    path.strip_suffix(split_suffix(split_no, split_count).as_bytes()).filter(|prefix| !prefix.is_empty())
}

fn split_suffix(split_no: i32, split_count: i32) -> String {
    format!("-{:05}-of-{split_count:05}.gguf", i64::from(split_no) + 1)
}
