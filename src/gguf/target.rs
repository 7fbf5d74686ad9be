//! Files that appear when they are complete. Used by quantization and by what saves models.

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

/// A file that appears under its name when it is complete. Until then another is written beside it, which goes if it is
/// never finished. What is no regular file (`/dev/null`, a pipe) is written in place.
pub struct TargetFile {
    path: PathBuf,
    file: File,
    temporary: Option<PathBuf>,
}

impl TargetFile {
    /// Starts to write what is to appear at `path`.
    pub fn create(path: PathBuf) -> Result<TargetFile> {
        let failed = |path: &Path, e| Error::io(format!("create '{}'", path.display()), e);
        // The file behind a link is replaced, not the link.
        let path = path.canonicalize().unwrap_or(path);
        if path.metadata().is_ok_and(|meta| !meta.is_file()) {
            let file = OpenOptions::new().write(true).open(&path).map_err(|e| failed(&path, e))?;
            return Ok(TargetFile { path, file, temporary: None });
        }
        for n in 0..100 {
            let suffix = format!(".{}-{n}.part", std::process::id());
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            let temporary = PathBuf::from(name);
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => return Ok(TargetFile { path, file, temporary: Some(temporary) }),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed(&path, e)),
            }
        }
        Err(Error::argument(format!("'{}' is being written by others", path.display())))
    }

    /// Where it will appear.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where to write.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Lets it appear.
    pub fn finish(mut self) -> Result<()> {
        let Some(temporary) = self.temporary.take() else { return Ok(()) };
        std::fs::rename(&temporary, &self.path).map_err(|e| {
            // Nothing is left behind; that the file is complete does not help under another name.
            let _ = std::fs::remove_file(&temporary);
            Error::io(format!("rename '{}' to '{}'", temporary.display(), self.path.display()), e)
        })
    }
}

impl Drop for TargetFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary
            && let Err(e) = std::fs::remove_file(temporary)
        {
            log::warn!("'{}' is left behind: {e}", temporary.display());
        }
    }
}
