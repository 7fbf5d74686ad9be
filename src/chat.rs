//! Chat templates without a template language: the formats of well-known model families, found by their names or by what
//! a Jinja template contains. Called by `capi` for `llama_chat_apply_template` and `llama_chat_builtin_templates`; the
//! results are llama.cpp's, byte for byte.
//!
//! Nearly all formats are a table: for each role what stands before and after its messages ([`Layout::Turns`]). Llama 2
//! and Mistral wrap a question and all before it in one instruction ([`Layout::Instructions`]).

mod formats;

use std::ffi::CStr;

use crate::{Error, Result};
use formats::{DOTS1, INSTRUCTION, RULES, TEMPLATES};

/// One message of a conversation. Any bytes will do.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Who speaks: `system`, `user`, `assistant`, or what else the model knows.
    pub role: &'a [u8],
    /// What is said.
    pub content: &'a [u8],
}

/// Formats `messages` as the model expects them. `template` is the name of a format, or a Jinja template from which the
/// format is guessed (it is not run); `None` is `chatml`. `add_assistant` ends with the beginning of an answer.
///
/// Errors when the format is not known.
pub fn apply_template(template: Option<&[u8]>, messages: &[Message], add_assistant: bool) -> Result<Vec<u8>> {
    let template = detect(template.unwrap_or(b"chatml"))
        .ok_or_else(|| Error::Unsupported("the chat template is none of the known formats".into()))?;
    let mut out = Vec::new();
    match &template.layout {
        Layout::Turns(turns) => turns.format(messages, add_assistant, &mut out),
        Layout::Instructions(instructions) => instructions.format(messages, &mut out),
    }
    Ok(out)
}

/// The names that [`apply_template`] knows, sorted.
pub fn builtin_templates() -> impl ExactSizeIterator<Item = &'static CStr> {
    TEMPLATES.iter().map(|template| template.name)
}

struct Template {
    name: &'static CStr,
    layout: Layout,
}

enum Layout {
    Turns(Turns),
    Instructions(Instructions),
}

/// Messages one after the other.
struct Turns {
    /// At the beginning.
    start: &'static str,
    /// After that, if the first message is not the system's; and whether also if there is no message.
    without_system: (&'static str, bool),
    /// Between two messages.
    between: &'static str,
    /// By role. The first that fits counts; messages that none fits are left out.
    turns: &'static [Turn],
    /// At the end, if the last message is the user's.
    after_last_user: &'static str,
    /// At the end, if an answer is to follow.
    answer: &'static str,
}

/// How messages of a role look.
#[derive(Clone, Copy)]
struct Turn {
    /// The role, or `""` for all.
    role: &'static str,
    /// `{role}` stands for the role, `{Role}` and `{ROLE}` for it in upper case.
    before: &'static str,
    after: &'static str,
    /// Without spaces around the content.
    trim: bool,
    /// Only where it is the first message.
    only_first: bool,
    held: Held,
}

/// Formats without a place for the system's message hold it until a user speaks.
#[derive(Clone, Copy, PartialEq)]
enum Held {
    No,
    /// This message is held.
    Hold,
    /// What is held goes before this message.
    Take,
}

/// The role of a [`Turn`] for all roles.
const ANY: &str = "";

impl Turns {
    fn format(&self, messages: &[Message], add_assistant: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(self.start.as_bytes());
        let (without_system, even_if_empty) = self.without_system;
        if messages.first().map_or(even_if_empty, |message| message.role != b"system") {
            out.extend_from_slice(without_system.as_bytes());
        }
        let mut held = Vec::new();
        for (i, message) in messages.iter().enumerate() {
            if i > 0 {
                out.extend_from_slice(self.between.as_bytes());
            }
            let fits = |turn: &&Turn| {
                (turn.role == ANY || turn.role.as_bytes() == message.role) && (i == 0 || !turn.only_first)
            };
            let Some(turn) = self.turns.iter().find(fits) else { continue };
            let content = if turn.trim { trim(message.content) } else { message.content };
            if turn.held == Held::Hold {
                held.extend_from_slice(content);
                continue;
            }
            push_with_role(turn.before, message.role, out);
            if turn.held == Held::Take && !held.is_empty() {
                out.append(&mut held);
                out.extend_from_slice(b"\n\n");
            }
            out.extend_from_slice(content);
            out.extend_from_slice(turn.after.as_bytes());
        }
        if messages.last().is_some_and(|message| message.role == b"user") {
            out.extend_from_slice(self.after_last_user.as_bytes());
        }
        if add_assistant {
            out.extend_from_slice(self.answer.as_bytes());
        }
    }
}

fn push_with_role(text: &str, role: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else { break };
        out.extend_from_slice(before.as_bytes());
        let start = out.len();
        out.extend_from_slice(role);
        let n_upper = match name {
            "ROLE" => role.len(),
            "Role" => role.len().min(1),
            _ => 0,
        };
        out[start..start + n_upper].make_ascii_uppercase();
        rest = after;
    }
    out.extend_from_slice(rest.as_bytes());
}

/// Questions in `[INST]`, with what the system says before them inside.
struct Instructions {
    /// Whether the first one is open before any message.
    starts_open: bool,
    open: &'static str,
    /// How all but the first open.
    reopen: &'static str,
    system: (&'static str, &'static str),
    close: &'static str,
    before_answer: &'static str,
    trim_all: bool,
    trim_answer: bool,
}

impl Instructions {
    fn format(&self, messages: &[Message], out: &mut Vec<u8>) {
        let mut is_open = self.starts_open;
        if is_open {
            out.extend_from_slice(self.open.as_bytes());
        }
        for (i, message) in messages.iter().enumerate() {
            if !is_open {
                out.extend_from_slice(if i == 0 { self.open } else { self.reopen }.as_bytes());
            }
            let (before, after, trims) = match message.role {
                b"system" => (self.system.0, self.system.1, false),
                b"user" => ("", self.close, false),
                _ => (self.before_answer, "</s>", self.trim_answer),
            };
            out.extend_from_slice(before.as_bytes());
            out.extend_from_slice(if trims || self.trim_all { trim(message.content) } else { message.content });
            out.extend_from_slice(after.as_bytes());
            is_open = matches!(message.role, b"system" | b"user");
        }
    }
}

/// `text` without what C's `isspace` counts around it.
fn trim(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let start = text.iter().take_while(|byte| is_space(byte)).count();
    let end = text.len() - text[start..].iter().rev().take_while(|byte| is_space(byte)).count();
    &text[start..end]
}

fn find(name: &[u8]) -> Option<&'static Template> {
    TEMPLATES.iter().find(|template| template.name.to_bytes() == name)
}

/// The format that `template` names, or that the first rule finds whose texts are all in it.
fn detect(template: &[u8]) -> Option<&'static Template> {
    if let Some(named) = find(template) {
        return Some(named);
    }
    let contains = |text: &&str| {
        memchr::memmem::find(template, text.as_bytes()).is_some()
            || *text == INSTRUCTION && template.starts_with(b"mistral")
    };
    let (_, name) = RULES.iter().find(|(texts, _)| texts.iter().all(contains))?;
    if name.to_bytes() == DOTS1.name.to_bytes() { Some(&DOTS1) } else { find(name.to_bytes()) }
}
