//! Chat formats against llama.cpp's own library: every built-in one, and those recognized by the words of a template.
//! Needs `reference/` in `$INFER_TEST_DATA` (default `target/test-data`), which `make test-data` fetches.

use std::ffi::{CString, c_char};
use std::path::PathBuf;

use infer::chat::{Message, apply, names};
use libloading::Library;

#[repr(C)]
struct ChatMessage {
    role: *const c_char,
    content: *const c_char,
}

type Apply = unsafe extern "C" fn(*const c_char, *const ChatMessage, usize, bool, *mut c_char, i32) -> i32;

#[test]
fn conversations_are_written_as_llama_cpp_writes_them() {
    let reference = reference();
    // SAFETY: the symbol has this type in llama.h.
    let theirs = unsafe { reference.get::<Apply>(b"llama_chat_apply_template") }.unwrap();
    let lines = [
        ("system", " You are helpful.\n"),
        ("user", "Hello <there>"),
        ("assistant", "  Hi! \t"),
        ("user", "Größe?\n"),
        ("assistant", ""),
        ("tool", "{\"a\": 1}"),
        ("assistant_tool_call", "call()"),
        ("user", "Bye"),
    ];
    let conversations: Vec<Vec<(&str, &str)>> = vec![
        lines.to_vec(),
        lines[1..4].to_vec(),
        lines[1..2].to_vec(),
        lines[2..6].to_vec(),
        [&lines[1..3], &lines[0..2]].concat(),
        [lines[0], lines[0], lines[1]].to_vec(),
    ];
    let templates = [
        "{{ '<|im_start|>' + message['role'] }}",
        "<|im_start|> <|im_sep|>",
        "[INST] <<SYS>>",
        "[INST] content.strip()",
        "bos_token + '[INST] <<SYS>>",
        "[INST][AVAILABLE_TOOLS]",
        " [INST][AVAILABLE_TOOLS]",
        "\"[INST]\"[AVAILABLE_TOOLS]",
        "mistral",
        "<start_of_turn>",
        "<|endofuserprompt|>",
        "<|start_of_role|> <tools>",
        "USER: ASSISTANT: SYSTEM: ",
        "nothing that is known",
        "",
    ];
    for template in names().chain(templates) {
        for conversation in &conversations {
            for reply in [false, true] {
                let chat: Vec<Message> = conversation
                    .iter()
                    .map(|(role, content)| Message { role: role.as_bytes(), content: content.as_bytes() })
                    .collect();
                let ours = apply(template.as_bytes(), &chat, reply).ok().map(|text| String::from_utf8(text).unwrap());
                assert_eq!(ours, by_reference(*theirs, template, conversation, reply), "{template}");
            }
        }
    }
}

#[test]
fn names_are_those_of_llama_cpp() {
    let reference = reference();
    // SAFETY: the symbol has this type in llama.h, and the array has the length passed.
    let theirs = unsafe {
        let list = reference
            .get::<unsafe extern "C" fn(*mut *const c_char, usize) -> i32>(b"llama_chat_builtin_templates")
            .unwrap();
        let mut names = [std::ptr::null(); 256];
        let n = list(names.as_mut_ptr(), names.len());
        names[..n as usize].iter().map(|&name| std::ffi::CStr::from_ptr(name).to_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names().collect::<Vec<_>>(), theirs);
}

fn by_reference(apply: Apply, template: &str, conversation: &[(&str, &str)], reply: bool) -> Option<String> {
    let template = CString::new(template).unwrap();
    let c = |text: &str| CString::new(text).unwrap();
    let texts: Vec<_> = conversation.iter().map(|(role, content)| (c(role), c(content))).collect();
    let chat: Vec<_> =
        texts.iter().map(|(role, content)| ChatMessage { role: role.as_ptr(), content: content.as_ptr() }).collect();
    let mut buf = vec![0u8; 4096];
    // SAFETY: all strings are NUL-terminated and live, the sizes are those of the buffers.
    let n = unsafe { apply(template.as_ptr(), chat.as_ptr(), chat.len(), reply, buf.as_mut_ptr().cast(), 4096) };
    let n = usize::try_from(n).ok()?;
    Some(String::from_utf8(buf[..n].to_vec()).unwrap())
}

fn reference() -> Library {
    let data = std::env::var_os("INFER_TEST_DATA").map_or_else(|| PathBuf::from("target/test-data"), PathBuf::from);
    let path = data.join("reference/libllama.v0.5.0.so");
    // SAFETY: the library's initialisers have no preconditions.
    unsafe { Library::new(&path) }.unwrap_or_else(|e| panic!("{e}; run `make test-data` to fetch {}", path.display()))
}
