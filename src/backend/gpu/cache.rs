//! Compiled pipelines on disk: the driver's own data, one file per adapter and driver below the user's cache folder
//! (`$XDG_CACHE_HOME/infer` or `~/.cache/infer`), written after new pipelines were made. A checksum goes before the data: what
//! is not as it was written never reaches the driver.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The cache of one device.
pub struct DiskCache {
    pipelines: wgpu::PipelineCache,
    path: PathBuf,
    /// Pipelines at the last write.
    saved: AtomicUsize,
}

impl DiskCache {
    /// Reads the file, if there is one; `None` where the driver has no such data or there is no home folder.
    pub fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo) -> Option<DiskCache> {
        let name = wgpu::util::pipeline_cache_key(info)?;
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
        let path = folder.join("infer").join(name);
        let file = std::fs::read(&path).unwrap_or_default();
        let data = checked(&file);
        if data.is_none() && !file.is_empty() {
            log::info!("{} is damaged or of another version: pipelines are compiled anew", path.display());
        }
        // SAFETY: `save` wrote these bytes, as the checksum shows, from what a driver gave; wgpu compares which driver.
        let pipelines = unsafe {
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                label: Some("pipelines"),
                data,
                fallback: true,
            })
        };
        Some(DiskCache { pipelines, path, saved: AtomicUsize::new(0) })
    }

    /// For making pipelines with.
    pub fn pipelines(&self) -> &wgpu::PipelineCache {
        &self.pipelines
    }

    /// Writes the data if more than `n` pipelines were made since the last write; a failure costs only time at the next start.
    pub fn save(&self, n: usize) {
        if self.saved.swap(n, Ordering::Relaxed) == n {
            return;
        }
        let Some(data) = self.pipelines.get_data() else { return };
        let write = || -> std::io::Result<()> {
            if let Some(folder) = self.path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            // Another process may write too: each its own file, then one rename.
            let own = self.path.with_extension(format!("{}", std::process::id()));
            let kept = std::fs::write(&own, [&checksum(&data).to_le_bytes()[..], &data].concat())
                .and_then(|()| std::fs::rename(&own, &self.path));
            if kept.is_err() {
                let _ = std::fs::remove_file(&own);
            }
            kept
        };
        if let Err(e) = write() {
            log::debug!("pipelines are not kept in {}: {e}", self.path.display());
        }
    }
}

/// Bytes of a checksum.
const CHECKSUM: usize = 8;

/// The data of a file; `None`: it is not as it was written.
fn checked(file: &[u8]) -> Option<&[u8]> {
    let (sum, data) = file.split_first_chunk::<CHECKSUM>()?;
    (u64::from_le_bytes(*sum) == checksum(data)).then_some(data)
}

/// FNV-1a over words of eight bytes.
fn checksum(data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let step = |sum: u64, word: &[u8; 8]| (sum ^ u64::from_le_bytes(*word)).wrapping_mul(0x100_0000_01b3);
    step(words.iter().fold(0xcbf2_9ce4_8422_2325 ^ data.len() as u64, step), &last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_not_read() {
        let data: Vec<u8> = (0..77).collect();
        let file = [&checksum(&data).to_le_bytes()[..], &data].concat();
        assert_eq!(checked(&file), Some(&data[..]));
        for i in 0..file.len() {
            let mut other = file.clone();
            other[i] ^= 1;
            assert_eq!(checked(&other), None, "byte {i}");
            assert_eq!(checked(&file[..i]), None, "{i} bytes");
        }
    }
}
