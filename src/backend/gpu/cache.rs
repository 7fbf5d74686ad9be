//! Compiled pipelines on disk: the driver's own data, one file per adapter and driver below the user's cache folder
//! (`$XDG_CACHE_HOME/infer` or `~/.cache/infer`), written after new pipelines were made.

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
        let folder = match std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
            Some(folder) => PathBuf::from(folder),
            None => PathBuf::from(std::env::var_os("HOME")?).join(".cache"),
        };
        let path = folder.join("infer").join(name);
        let data = std::fs::read(&path).ok();
        // SAFETY: the file is written by `save` alone, from what the same driver gave; wgpu checks its header and falls back.
        let pipelines = unsafe {
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                label: Some("pipelines"),
                data: data.as_deref(),
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
            std::fs::write(&own, &data)?;
            std::fs::rename(&own, &self.path)
        };
        if let Err(e) = write() {
            log::debug!("pipelines are not kept in {}: {e}", self.path.display());
        }
    }
}
