//! Chat templates: writes a conversation as the text that a model was trained on. The formats of known models are built in;
//! a model's own Jinja template is not run, but tells by its words which of them it is. Called by `capi::chat`.

mod formats;
mod turns;

use crate::{Error, Result};
use formats::{DOTS1, FORMATS, Format, INST, SIGNS, Style};

/// What one side of a conversation says.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Who: "system", "user", "assistant", and what else the format knows.
    pub role: &'a [u8],
    /// What.
    pub content: &'a [u8],
}

/// The names of the formats, in order.
pub fn names() -> impl ExactSizeIterator<Item = &'static str> {
    FORMATS.iter().map(|format| format.name)
}

/// Writes a conversation by a template: a format's name, or a Jinja template that is recognized. With `reply` the text ends
/// where the assistant's answer begins.
pub fn apply(template: &[u8], chat: &[Message], reply: bool) -> Result<Vec<u8>> {
    let format = find(template).ok_or_else(|| Error::Unsupported("a chat template that is not one of the known".into()))?;
    let mut out = Vec::new();
    match &format.style {
        Style::Stateful(write) => write(chat, reply, &mut out),
        Style::Regular { begin, no_system, turns, reply: prompt } => {
            out.extend(begin.as_bytes());
            if chat.first().is_none_or(|message| message.role != b"system") {
                out.extend(no_system.as_bytes());
            }
            for (i, message) in chat.iter().enumerate() {
                let fits = |role: &str| match role {
                    "" => true,
                    "^system" => i == 0 && message.role == b"system",
                    role => message.role == role.as_bytes(),
                };
                if let Some((_, pattern)) = turns.iter().find(|(role, _)| fits(role)) {
                    write_turn(pattern, message, i == 0, &mut out);
                }
            }
            if reply {
                out.extend(prompt.as_bytes());
            }
        }
    }
    Ok(out)
}

fn find(template: &[u8]) -> Option<&'static Format> {
    let named = |name: &str| FORMATS.iter().find(|format| format.name == name);
    let by_name = std::str::from_utf8(template).ok().and_then(named);
    by_name.or_else(|| {
        let sign = |word: &&str| {
            contains(template, word.as_bytes()) || (*word == INST && template.starts_with(b"mistral"))
        };
        let (_, name) = SIGNS.iter().find(|(words, _)| words.iter().all(sign))?;
        if *name == DOTS1.name { Some(&DOTS1) } else { named(name) }
    })
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(text, word).is_some()
}

/// Writes a message by a pattern of [`Style::Regular`].
fn write_turn(pattern: &str, message: &Message, is_first: bool, out: &mut Vec<u8>) {
    let mut parts = pattern.split('{');
    out.extend(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let (place, rest) = part.split_once('}').expect("patterns close their braces");
        match place {
            "c" => out.extend(message.content),
            "t" => out.extend(trim(message.content)),
            "r" => out.extend(message.role),
            "R" => out.extend(message.role.to_ascii_uppercase()),
            "U" => {
                out.extend(message.role.iter().take(1).map(u8::to_ascii_uppercase));
                out.extend(message.role.iter().skip(1));
            }
            "b" if is_first => {}
            "b" => out.extend(b"<s>"),
            other => unreachable!("pattern with {{{other}}}"),
        }
        out.extend(rest.as_bytes());
    }
}

/// Without the white space of C around it.
fn trim(text: &[u8]) -> &[u8] {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t'..=b'\r');
    let start = text.iter().position(|b| !is_space(b)).unwrap_or(text.len());
    let end = text.iter().rposition(|b| !is_space(b)).map_or(start, |last| last + 1);
    &text[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat() -> [Message<'static>; 3] {
        let message = |role, content| Message { role, content };
        [message(b"system", b"Be brief. "), message(b"user", b"Hi"), message(b"assistant", b" Hello ")]
    }

    fn text(template: &str, chat: &[Message], reply: bool) -> String {
        String::from_utf8(apply(template.as_bytes(), chat, reply).unwrap()).unwrap()
    }

    #[test]
    fn names_are_sorted_and_every_pattern_is_well_formed() {
        let all: Vec<_> = names().collect();
        assert!(all.is_sorted());
        for name in all {
            let odd = Message { role: b"tool", content: b"x" };
            text(name, &[odd, odd], true);
            text(name, &chat(), true);
            text(name, &[], true);
        }
    }

    #[test]
    fn regular_and_stateful_formats() {
        assert_eq!(
            text("chatml", &chat()[..2], true),
            "<|im_start|>system\nBe brief. <|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(
            text("gemma", &chat(), true),
            "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n\
             <start_of_turn>model\n"
        );
        assert_eq!(
            text("llama2-sys-bos", &[&chat()[..], &chat()[1..2]].concat(), false),
            "[INST] <<SYS>>\nBe brief. \n<</SYS>>\n\nHi [/INST] Hello </s><s>[INST] Hi [/INST]"
        );
        assert_eq!(text("mistral-v3", &chat()[1..], false), "[INST] Hi[/INST] Hello</s>");
    }

    #[test]
    fn templates_are_recognized() {
        assert_eq!(find(b"{{ '<|im_start|>' + message }}").unwrap().name, "chatml");
        assert_eq!(find(b"... <start_of_turn> ...").unwrap().name, "gemma");
        assert_eq!(find(b"{% <|endofuserprompt|> %}").unwrap().name, "dots1");
        assert_eq!(find(b"mistral-unknown").unwrap().name, "llama2");
        assert!(find(b"{{ bos_token }}").is_none());
        for (_, name) in SIGNS {
            assert!(*name == DOTS1.name || names().any(|known| known == *name), "{name}");
        }
    }

    #[test]
    fn white_space_is_trimmed_as_in_c() {
        assert_eq!(trim(b" \x0b\r\na b\t "), b"a b");
        assert_eq!(trim(b" \n"), b"");
    }
}
