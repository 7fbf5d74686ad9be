//! Chat templates as llama.h has them.

use std::ffi::c_char;

use super::*;
use crate::Result;
use crate::chat::{Message, builtin_templates};

/// Writes a conversation as the text that a model was trained on.
///
/// `tmpl` is a name that llama_chat_builtin_templates lists, or a model's own template (see llama_model_chat_template) if
/// that is recognized as one of them; NULL means "chatml". With `add_ass` the text ends where the assistant's answer
/// begins. Returns the length of the text, of which `buf` gets the first `length` bytes, with a NUL after them if there is
/// room; or -1 when the template is unknown.
///
/// # Safety
/// `tmpl` must be NULL or a NUL-terminated string, `chat` point to `n_msg` messages of NUL-terminated strings, `buf` be
/// NULL or of `length` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_chat_apply_template(
    tmpl: *const c_char,
    chat: *const llama_chat_message,
    n_msg: usize,
    add_ass: bool,
    buf: *mut c_char,
    length: i32,
) -> i32 {
    guard(-1, || {
        // SAFETY: the caller promises NULL or a NUL-terminated string, and n_msg messages of such strings.
        let (template, chat) = unsafe {
            let template = if tmpl.is_null() { c"chatml" } else { c_str(tmpl, "tmpl")? };
            (template, array(chat, n_msg, "chat")?.iter().map(|m| message(m)).collect::<Result<Vec<_>>>()?)
        };
        let text = crate::chat::apply_template(Some(template.to_bytes()), &chat, add_ass)?;
        let room = usize::try_from(length).unwrap_or(0);
        if !buf.is_null() && room > 0 {
            let n = text.len().min(room);
            // SAFETY: n <= room, and the caller promises that many writable bytes; the NUL goes inside them too.
            unsafe {
                std::ptr::copy_nonoverlapping(text.as_ptr(), buf.cast(), n);
                if n < room {
                    buf.add(n).write(0);
                }
            }
        }
        Ok(i32::try_from(text.len()).unwrap_or(i32::MAX))
    })
}

/// Lists the names of the built-in chat templates: the first `len` go to `output`. Returns how many there are. The strings
/// live as long as the library.
///
/// # Safety
/// `output` must be NULL or have room for `len` pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_chat_builtin_templates(output: *mut *const c_char, len: usize) -> i32 {
    guard(0, || {
        if !output.is_null() {
            for (i, name) in builtin_templates().take(len).enumerate() {
                // SAFETY: i < len, and the caller promises room for `len` pointers.
                unsafe { output.add(i).write(name.as_ptr()) };
            }
        }
        Ok(builtin_templates().len() as i32)
    })
}

/// # Safety
/// The strings of `message` must be NULL or NUL-terminated and live as long as `'a`.
unsafe fn message<'a>(message: &llama_chat_message) -> Result<Message<'a>> {
    // SAFETY: the caller promises NULL or NUL-terminated strings.
    unsafe {
        Ok(Message {
            role: c_str(message.role, "role")?.to_bytes(),
            content: c_str(message.content, "content")?.to_bytes(),
        })
    }
}
