//! The panic barrier and the last error's text. Every exported function runs its body in [`guard`].

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::{Error, Result};

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static PANIC_AT: RefCell<String> = RefCell::default();
}

/// Runs the body of an exported function. An error or a panic is logged and kept for `infer_last_error()`, and
/// `default`, the function's documented error value, is returned instead; nothing unwinds into the caller.
pub(crate) fn guard<T>(default: T, body: impl FnOnce() -> Result<T>) -> T {
    prepare();
    let _depth = enter();
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            report(&error);
            default
        }
        Err(payload) => {
            report(&Error::Internal(describe_panic(payload.as_ref())));
            // A payload whose drop panics would unwind into the caller after all.
            std::mem::forget(payload);
            default
        }
    }
}

/// The text of the calling thread's last failure, valid until its next one.
pub(super) fn last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// Logs an error and keeps its text for the calling thread.
pub(crate) fn report(error: &Error) {
    match error {
        Error::NoSlot { .. } | Error::Aborted => log::warn!("{error}"),
        _ => log::error!("{error}"),
    }
    let text = super::logging::c_text(&error.to_string());
    // Fails only while the thread is being torn down, when nobody can ask any more.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = text);
}

struct Depth;

impl Drop for Depth {
    fn drop(&mut self) {
        let _ = DEPTH.try_with(|depth| depth.set(depth.get() - 1));
    }
}

fn enter() -> Option<Depth> {
    DEPTH.try_with(|depth| depth.set(depth.get() + 1)).ok().map(|()| Depth)
}

/// Installs the log bridge and the panic hook, once. Panics inside [`guard`] are remembered with their place instead of
/// being printed; all others go on to the hook that was there.
fn prepare() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        super::logging::install();
        let outer = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if DEPTH.try_with(Cell::get).unwrap_or(0) == 0 {
                return outer(info);
            }
            let place = info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
            let _ = PANIC_AT.try_with(|at| at.replace(place));
        }));
    });
}

fn describe_panic(payload: &(dyn Any + Send)) -> String {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic");
    let place = PANIC_AT.try_with(RefCell::take).unwrap_or_default();
    format!("{message} at {place}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn last_error() -> String {
        // SAFETY: the text is NUL-terminated and this thread's own.
        unsafe { CStr::from_ptr(super::last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn errors_become_the_default_and_are_kept() {
        assert_eq!(guard(7, || Ok(1)), 1);
        assert_eq!(guard(7, || Err(Error::Null("model"))), 7);
        assert_eq!(last_error(), "model is NULL");
        assert_eq!(guard(7, || Ok(2)), 2);
        assert_eq!(last_error(), "model is NULL");
    }

    #[test]
    fn panics_stop_at_the_border() {
        assert_eq!(guard(-1, || panic!("broken {}", 3)), -1);
        assert!(last_error().contains("broken 3"), "{}", last_error());
        assert!(last_error().contains("error.rs"), "{}", last_error());
    }

    #[test]
    fn guards_nest() {
        let inner = guard(1, || Ok(guard(2, || panic!("inner"))));
        assert_eq!(inner, 2);
        assert_eq!(guard(3, || panic!("outer")), 3);
    }
}
