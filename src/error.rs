//! The only error type of the crate. Every layer returns it; `capi` turns it into llama.h's error values, logs it and
//! keeps its text for `infer_last_error()`.

/// Why a call failed. Messages name the file or tensor, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused (open, map, read, write, lock).
    #[error("{what}: {source}")]
    Io {
        /// What was being done, to which file.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file's content is not what its format promises.
    #[error("{0}")]
    Format(String),
    /// A tensor is missing or has an unexpected type or shape.
    #[error("tensor '{name}': {reason}")]
    Tensor {
        /// The tensor's name in the file or the graph.
        name: String,
        /// Expected and found.
        reason: String,
    },
    /// The caller passed something out of range.
    #[error("invalid argument: {0}")]
    Argument(String),
    /// The caller passed NULL where an object is needed.
    #[error("{0} is NULL")]
    Null(&'static str),
    /// Valid, but not something this library can do.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// An allocation failed or would exceed a limit.
    #[error("out of memory: {0}")]
    Memory(String),
    /// A GPU failed: lost, a shader refused, a limit exceeded. Other contexts and the process live on.
    #[error("GPU: {0}")]
    Device(String),
    /// No free KV cells for the batch; a smaller batch or a larger context may work.
    #[error("no KV cache slot for a batch of {n_tokens} tokens")]
    NoSlot {
        /// How many tokens were to be placed.
        n_tokens: usize,
    },
    /// A callback of the caller asked to stop.
    #[error("cancelled by the caller")]
    Aborted,
    /// A bug in this library, caught at the border.
    #[error("internal error: {0}")]
    Internal(String),
}

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An I/O error with what was being done.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Error::Io { what: what.into(), source }
    }

    /// A malformed file.
    pub fn format(reason: impl Into<String>) -> Self {
        Error::Format(reason.into())
    }

    /// A tensor that does not fit.
    pub fn tensor(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Tensor { name: name.into(), reason: reason.into() }
    }

    /// A caller's mistake.
    pub fn argument(reason: impl Into<String>) -> Self {
        Error::Argument(reason.into())
    }
}
