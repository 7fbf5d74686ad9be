//! The chat formats in which a message is written differently after different ones.

use super::{Message, trim};

/// Gemma has no system role: what the system says goes before the next message of the user.
pub fn gemma(chat: &[Message], reply: bool, out: &mut Vec<u8>) {
    let mut system = Vec::new();
    for message in chat {
        let role = match message.role {
            b"system" => {
                system.extend_from_slice(trim(message.content));
                continue;
            }
            b"assistant" => b"model",
            other => other,
        };
        out.extend([b"<start_of_turn>", role, b"\n"].concat());
        if !system.is_empty() && role != b"model" {
            out.append(&mut system);
            out.extend(b"\n\n");
        }
        out.extend([trim(message.content), b"<end_of_turn>\n"].concat());
    }
    if reply {
        out.extend(b"<start_of_turn>model\n");
    }
}

/// Orion has no system role either.
pub fn orion(chat: &[Message], _reply: bool, out: &mut Vec<u8>) {
    let mut system = Vec::new();
    for message in chat {
        match message.role {
            b"system" => system.extend_from_slice(message.content),
            b"user" => {
                out.extend(b"Human: ");
                if !system.is_empty() {
                    out.append(&mut system);
                    out.extend(b"\n\n");
                }
                out.extend([message.content, b"\n\nAssistant: </s>"].concat());
            }
            _ => out.extend([message.content, b"</s>"].concat()),
        }
    }
}

/// Llama 2: the system's words, between `sys` and `end_sys`, are part of the user's turn, which `[INST]` opens; `again`
/// opens the turns after the first.
pub fn llama2(chat: &[Message], sys: &str, end_sys: &str, again: &str, strip: bool, out: &mut Vec<u8>) {
    out.extend(b"[INST] ");
    let mut open = true;
    for message in chat {
        let content = if strip { trim(message.content) } else { message.content };
        if !open {
            out.extend(again.as_bytes());
            open = true;
        }
        match message.role {
            b"system" => out.extend([sys.as_bytes(), content, end_sys.as_bytes()].concat()),
            b"user" => out.extend([content, b" [/INST]"].concat()),
            _ => {
                out.extend([content, b"</s>"].concat());
                open = false;
            }
        }
    }
}

/// Mistral up to version 3: as Llama 2, with other spaces before `[INST]` and after it.
pub fn mistral(chat: &[Message], before: &str, after: &str, trim_answers: bool, out: &mut Vec<u8>) {
    let mut open = false;
    for message in chat {
        if !open {
            out.extend([before, "[INST]", after].concat().bytes());
            open = true;
        }
        match message.role {
            b"system" => out.extend([message.content, b"\n\n"].concat()),
            b"user" => out.extend([message.content, before.as_bytes(), b"[/INST]"].concat()),
            _ => {
                let content = if trim_answers { trim(message.content) } else { message.content };
                out.extend([after.as_bytes(), content, b"</s>"].concat());
                open = false;
            }
        }
    }
}

/// RWKV-World asks for the answer whenever the user has the last word.
pub fn rwkv_world(chat: &[Message], _reply: bool, out: &mut Vec<u8>) {
    for (i, message) in chat.iter().enumerate() {
        let name: &[u8] = match message.role {
            b"system" => b"System: ",
            b"user" => b"User: ",
            b"assistant" => b"Assistant: ",
            _ => continue,
        };
        out.extend([name, trim(message.content), b"\n\n"].concat());
        if message.role == b"user" && i + 1 == chat.len() {
            out.extend(b"Assistant:");
        }
    }
}
