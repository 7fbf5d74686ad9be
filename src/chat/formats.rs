//! The chat formats as tables: what is written for each message, and by what a model's Jinja template gives itself away.
//! Facts about the models, from their makers and from llama.cpp.

use super::turns;

/// How a conversation is written.
pub enum Style {
    /// Message by message.
    Regular {
        /// Before all.
        begin: &'static str,
        /// Before the messages when the first is not the system's.
        no_system: &'static str,
        /// What is written for a message, by role: the first line that fits. "" fits every role, "^system" the system's
        /// only as the first message. No line: nothing is written.
        ///
        /// `{c}` is the content, `{t}` the content without white space around it; `{r}` the role, `{R}` in capitals, `{U}`
        /// with the first letter in capitals; `{b}` is `<s>` unless the message is the first.
        turns: &'static [(&'static str, &'static str)],
        /// What makes the model answer.
        reply: &'static str,
    },
    /// What a message is written as depends on those before it.
    Stateful(fn(&[super::Message], bool, &mut Vec<u8>)),
}

/// A format by name.
pub struct Format {
    /// llama.cpp's name.
    pub name: &'static str,
    /// The format.
    pub style: Style,
}

const fn regular(
    name: &'static str,
    begin: &'static str,
    turns: &'static [(&'static str, &'static str)],
    reply: &'static str,
) -> Format {
    Format { name, style: Style::Regular { begin, no_system: "", turns, reply } }
}

const fn stateful(name: &'static str, write: fn(&[super::Message], bool, &mut Vec<u8>)) -> Format {
    Format { name, style: Style::Stateful(write) }
}

/// The formats that callers can name, in the order of their names.
pub const FORMATS: &[Format] = &[
    regular(
        "bailing",
        "",
        &[("user", "<role>HUMAN</role>{c}"), ("", "<role>{R}</role>{c}")],
        "<role>ASSISTANT</role>",
    ),
    regular(
        "bailing-think",
        "",
        &[("user", "<role>HUMAN</role>{c}"), ("", "<role>{R}</role>{c}")],
        "<role>ASSISTANT</role><think>",
    ),
    Format {
        name: "bailing2",
        style: Style::Regular {
            begin: "",
            no_system: "<role>SYSTEM</role>detailed thinking off<|role_end|>",
            turns: &[("user", "<role>HUMAN</role>{c}<|role_end|>"), ("", "<role>{R}</role>{c}<|role_end|>")],
            reply: "<role>ASSISTANT</role>",
        },
    },
    regular("chatglm3", "[gMASK]sop", &[("", "<|{r}|>\n {c}")], "<|assistant|>"),
    regular("chatglm4", "[gMASK]<sop>", &[("", "<|{r}|>\n{c}")], "<|assistant|>\n"),
    regular("chatml", "", &[("", "<|im_start|>{r}\n{c}<|im_end|>\n")], "<|im_start|>assistant\n"),
    regular(
        "command-r",
        "",
        &[
            ("system", "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{t}<|END_OF_TURN_TOKEN|>"),
            ("user", "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{t}<|END_OF_TURN_TOKEN|>"),
            ("assistant", "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{t}<|END_OF_TURN_TOKEN|>"),
        ],
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    regular(
        "deepseek",
        "",
        &[
            ("system", "{c}"),
            ("user", "### Instruction:\n{c}\n"),
            ("assistant", "### Response:\n{c}\n<|EOT|>\n"),
        ],
        "### Response:\n",
    ),
    regular("deepseek-ocr", "", &[("", "{c}")], ""),
    regular(
        "deepseek2",
        "",
        &[("system", "{c}\n\n"), ("user", "User: {c}\n\n"), ("assistant", "Assistant: {c}<｜end▁of▁sentence｜>")],
        "Assistant:",
    ),
    regular(
        "deepseek3",
        "",
        &[("system", "{c}\n\n"), ("user", "<｜User｜>{c}"), ("assistant", "<｜Assistant｜>{c}<｜end▁of▁sentence｜>")],
        "<｜Assistant｜>",
    ),
    regular(
        "exaone-moe",
        "",
        &[
            ("system", "<|system|>\n{t}<|endofturn|>\n"),
            ("user", "<|user|>\n{t}<|endofturn|>\n"),
            ("assistant", "<|assistant|>\n{t}<|endofturn|>\n"),
            ("tool", "<|tool|>\n{t}<|endofturn|>\n"),
        ],
        "<|assistant|>\n",
    ),
    regular(
        "exaone3",
        "",
        &[
            ("system", "[|system|]{t}[|endofturn|]\n"),
            ("user", "[|user|]{t}\n"),
            ("assistant", "[|assistant|]{t}[|endofturn|]\n"),
        ],
        "[|assistant|]",
    ),
    regular(
        "exaone4",
        "",
        &[
            ("system", "[|system|]{t}[|endofturn|]\n"),
            ("user", "[|user|]{t}\n"),
            ("assistant", "[|assistant|]{t}[|endofturn|]\n"),
            ("tool", "[|tool|]{t}[|endofturn|]\n"),
        ],
        "[|assistant|]",
    ),
    regular("falcon3", "", &[("", "<|{r}|>\n{c}\n")], "<|assistant|>\n"),
    stateful("gemma", turns::gemma),
    regular(
        "gigachat",
        "<s>",
        &[
            ("^system", "{c}<|message_sep|>"),
            ("user", "user<|role_sep|>{c}<|message_sep|>available functions<|role_sep|>[]<|message_sep|>"),
            ("assistant", "assistant<|role_sep|>{c}<|message_sep|>"),
        ],
        "assistant<|role_sep|>",
    ),
    regular("glmedge", "", &[("", "<|{r}|>\n{c}")], "<|assistant|>"),
    regular(
        "gpt-oss",
        "",
        &[("assistant", "<|start|>{r}<|message|>{c}<|return|>"), ("", "<|start|>{r}<|message|>{c}<|end|>")],
        "<|start|>assistant",
    ),
    regular(
        "granite",
        "",
        &[
            ("assistant_tool_call", "<|start_of_role|>{r}<|end_of_role|><|tool_call|>{c}<|end_of_text|>\n"),
            ("", "<|start_of_role|>{r}<|end_of_role|>{c}<|end_of_text|>\n"),
        ],
        "<|start_of_role|>assistant<|end_of_role|>",
    ),
    regular("granite-4.0", "", GRANITE_4, "<|start_of_role|>assistant<|end_of_role|>"),
    regular("granite-4.1", "", GRANITE_4, "<|start_of_role|>assistant<|end_of_role|>"),
    regular(
        "grok-2",
        "",
        &[
            ("system", "System: {t}<|separator|>\n\n"),
            ("user", "Human: {t}<|separator|>\n\n"),
            ("assistant", "Assistant: {c}<|separator|>\n\n"),
        ],
        "Assistant:",
    ),
    regular(
        "hunyuan-dense",
        "",
        &[
            ("^system", "{c}<｜hy_place▁holder▁no▁3｜>"),
            ("assistant", "<｜hy_Assistant｜>{c}<｜hy_place▁holder▁no▁2｜>"),
            ("user", "<｜hy_User｜>{c}<｜hy_Assistant｜>"),
        ],
        "",
    ),
    regular(
        "hunyuan-moe",
        "",
        &[
            ("system", "<|startoftext|>{c}<|extra_4|>"),
            ("assistant", "{c}<|eos|>"),
            ("", "<|startoftext|>{c}<|extra_0|>"),
        ],
        "",
    ),
    regular(
        "hunyuan-vl",
        "<｜hy_begin▁of▁sentence｜>",
        &[
            ("^system", "{c}<｜hy_place▁holder▁no▁3｜>"),
            ("user", "{c}<｜hy_User｜>"),
            ("assistant", "{c}<｜hy_Assistant｜>"),
        ],
        "",
    ),
    regular(
        "kimi-k2",
        "",
        &[
            ("system", "<|im_system|>system<|im_middle|>{c}<|im_end|>"),
            ("user", "<|im_user|>user<|im_middle|>{c}<|im_end|>"),
            ("assistant", "<|im_assistant|>assistant<|im_middle|>{c}<|im_end|>"),
            ("tool", "<|im_system|>tool<|im_middle|>{c}<|im_end|>"),
            ("", "{c}<|im_end|>"),
        ],
        "<|im_assistant|>assistant<|im_middle|>",
    ),
    stateful("llama2", |chat, _, out| turns::llama2(chat, "", "\n", "[INST] ", false, out)),
    stateful("llama2-sys", |chat, _, out| turns::llama2(chat, "<<SYS>>\n", "\n<</SYS>>\n\n", "[INST] ", false, out)),
    stateful("llama2-sys-bos", |chat, _, out| {
        turns::llama2(chat, "<<SYS>>\n", "\n<</SYS>>\n\n", "<s>[INST] ", false, out)
    }),
    stateful("llama2-sys-strip", |chat, _, out| {
        turns::llama2(chat, "<<SYS>>\n", "\n<</SYS>>\n\n", "[INST] ", true, out)
    }),
    regular(
        "llama3",
        "",
        &[("", "<|start_header_id|>{r}<|end_header_id|>\n\n{t}<|eot_id|>")],
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    regular(
        "llama4",
        "",
        &[("", "<|header_start|>{r}<|header_end|>\n\n{t}<|eot|>")],
        "<|header_start|>assistant<|header_end|>\n\n",
    ),
    regular(
        "megrez",
        "",
        &[("", "<|role_start|>{r}<|role_end|>{c}<|turn_end|>")],
        "<|role_start|>assistant<|role_end|>",
    ),
    regular("minicpm", "", &[("user", "<用户>{t}<AI>"), ("", "{t}")], ""),
    stateful("mistral-v1", |chat, _, out| turns::mistral(chat, " ", " ", false, out)),
    stateful("mistral-v3", |chat, _, out| turns::mistral(chat, "", " ", true, out)),
    stateful("mistral-v3-tekken", |chat, _, out| turns::mistral(chat, "", "", false, out)),
    regular(
        "mistral-v7",
        "",
        &[("system", "[SYSTEM_PROMPT] {c}[/SYSTEM_PROMPT]"), ("user", "[INST] {c}[/INST]"), ("", " {c}</s>")],
        "",
    ),
    regular(
        "mistral-v7-tekken",
        "",
        &[("system", "[SYSTEM_PROMPT]{c}[/SYSTEM_PROMPT]"), ("user", "[INST]{c}[/INST]"), ("", "{c}</s>")],
        "",
    ),
    regular("monarch", "", &[("", "{b}{r}\n{c}</s>\n")], "<s>assistant\n"),
    regular(
        "openchat",
        "",
        &[("system", "{c}<|end_of_turn|>"), ("", "GPT4 Correct {U}: {c}<|end_of_turn|>")],
        "GPT4 Correct Assistant:",
    ),
    stateful("orion", turns::orion),
    Format {
        name: "pangu-embedded",
        style: Style::Regular {
            begin: "",
            no_system: "[unused9]系统：[unused10]",
            turns: &[
                ("system", "[unused9]系统：{c}[unused10]"),
                ("user", "[unused9]用户：{c}[unused10]"),
                ("assistant", "[unused9]助手：{c}[unused10]"),
                ("tool", "[unused9]工具：{c}[unused10]"),
                ("function", "[unused9]方法：{c}[unused10]"),
            ],
            reply: "[unused9]助手：",
        },
    },
    regular("phi3", "", &[("", "<|{r}|>\n{c}<|end|>\n")], "<|assistant|>\n"),
    regular(
        "phi4",
        "",
        &[("", "<|im_start|>{r}<|im_sep|>{c}<|im_end|>")],
        "<|im_start|>assistant<|im_sep|>",
    ),
    stateful("rwkv-world", turns::rwkv_world),
    regular(
        "seed_oss",
        "",
        &[("assistant", "<seed:bos>{r}\n{t}<seed:eos>"), ("", "<seed:bos>{r}\n{c}<seed:eos>")],
        "<seed:bos>assistant\n",
    ),
    regular(
        "smolvlm",
        "<|im_start|>",
        &[
            ("system", "{c}\n\n"),
            ("user", "User: {c}<end_of_utterance>\n"),
            ("", "Assistant: {c}<end_of_utterance>\n"),
        ],
        "Assistant:",
    ),
    regular("solar-open", "", &[("", "<|begin|>{r}<|content|>{c}<|end|>")], "<|begin|>assistant"),
    regular(
        "vicuna",
        "",
        &[("system", "{c}\n\n"), ("user", "USER: {c}\n"), ("assistant", "ASSISTANT: {c}</s>\n")],
        "ASSISTANT:",
    ),
    regular(
        "vicuna-orca",
        "",
        &[("system", "SYSTEM: {c}\n"), ("user", "USER: {c}\n"), ("assistant", "ASSISTANT: {c}</s>\n")],
        "ASSISTANT:",
    ),
    regular(
        "yandex",
        "",
        &[("user", " Пользователь: {c}\n\n"), ("assistant", " Ассистент: {c}\n\n")],
        " Ассистент:[SEP]",
    ),
    regular("zephyr", "", &[("", "<|{r}|>\n{c}<|endoftext|>\n")], "<|assistant|>\n"),
];

const GRANITE_4: &[(&str, &str)] = &[
    ("assistant_tool_call", "<|start_of_role|>assistant<|end_of_role|><|tool_call|>{c}<|end_of_text|>\n"),
    ("", "<|start_of_role|>{r}<|end_of_role|>{c}<|end_of_text|>\n"),
];

/// The one format that is recognized but has no name to call it by.
pub const DOTS1: Format = regular(
    "dots1",
    "",
    &[
        ("system", "<|system|>{c}<|endofsystem|>"),
        ("user", "<|userprompt|>{c}<|endofuserprompt|>"),
        ("", "<|response|>{c}<|endofresponse|>"),
    ],
    "<|response|>",
);

/// By what a Jinja template is recognized: the format of the first line all of whose words it contains.
pub const SIGNS: &[(&[&str], &str)] = &[
    (&["<|im_start|>", "<|im_sep|>"], "phi4"),
    (&["<|im_start|>", "<end_of_utterance>"], "smolvlm"),
    (&["<|im_start|>"], "chatml"),
    (&[INST, "[SYSTEM_PROMPT]"], "mistral-v7"),
    (&[INST, "' [INST] ' + system_message"], "mistral-v1"),
    (&[INST, "[AVAILABLE_TOOLS]", " [INST]"], "mistral-v1"),
    (&[INST, "[AVAILABLE_TOOLS]", "\"[INST]\""], "mistral-v3-tekken"),
    (&[INST, "[AVAILABLE_TOOLS]"], "mistral-v3"),
    (&[INST, "content.strip()"], "llama2-sys-strip"),
    (&[INST, "bos_token + '[INST]"], "llama2-sys-bos"),
    (&[INST, "<<SYS>>"], "llama2-sys"),
    (&[INST], "llama2"),
    (&["<|assistant|>", "<|end|>"], "phi3"),
    (&["[gMASK]<sop>"], "chatglm4"),
    (&["<|assistant|>", "<|user|>", "<|tool_declare|>"], "exaone-moe"),
    (&["<|assistant|>", "<|user|>", "</s>"], "falcon3"),
    (&["<|assistant|>", "<|user|>"], "glmedge"),
    (&["<|{{ item['role'] }}|>", "<|begin_of_image|>"], "glmedge"),
    (&["<|user|>", "<|endoftext|>"], "zephyr"),
    (&["bos_token + message['role']"], "monarch"),
    (&["<start_of_turn>"], "gemma"),
    (&["'\\n\\nAssistant: ' + eos_token"], "orion"),
    (&["GPT4 Correct "], "openchat"),
    (&["USER: ", "ASSISTANT: ", "SYSTEM: "], "vicuna-orca"),
    (&["USER: ", "ASSISTANT: "], "vicuna"),
    (&["### Instruction:", "<|EOT|>"], "deepseek"),
    (&["<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"], "command-r"),
    (&["<|start_header_id|>", "<|end_header_id|>"], "llama3"),
    (&["[gMASK]sop"], "chatglm3"),
    (&["<用户>"], "minicpm"),
    (&["'Assistant: ' + message['content'] + eos_token"], "deepseek2"),
    (&["<｜Assistant｜>", "<｜User｜>", "<｜end▁of▁sentence｜>"], "deepseek3"),
    (&["[|system|]", "[|assistant|]", "[|endofturn|]", "[|tool|]"], "exaone4"),
    (&["[|system|]", "[|assistant|]", "[|endofturn|]"], "exaone3"),
    (&["rwkv-world"], "rwkv-world"),
    (&["{{- 'User: ' + message['content']|trim + '\\n\\n' -}}"], "rwkv-world"),
    (&["<|start_of_role|>", "<tool_call>", "g4_default_system_message"], "granite-4.0"),
    (&["<|start_of_role|>", "<tools>", "g4_default_system_message"], "granite-4.0"),
    (&["<|start_of_role|>", "<tool_call>"], "granite-4.1"),
    (&["<|start_of_role|>", "<tools>"], "granite-4.1"),
    (&["<|start_of_role|>"], "granite"),
    (
        &["message['role'] + additional_special_tokens[0] + message['content'] + additional_special_tokens[1]"],
        "gigachat",
    ),
    (&["<|role_start|>"], "megrez"),
    (&[" Ассистент:"], "yandex"),
    (&["<role>ASSISTANT</role>", "'HUMAN'"], "bailing"),
    (&["<role>ASSISTANT</role>", "\"HUMAN\"", "<think>"], "bailing-think"),
    (&["<role>ASSISTANT</role>", "<role>HUMAN</role>", "<|role_end|>"], "bailing2"),
    (&["<|header_start|>", "<|header_end|>"], "llama4"),
    (&["<|endofuserprompt|>"], "dots1"),
    (&["<|extra_0|>", "<|extra_4|>"], "hunyuan-moe"),
    (&["<|start|>", "<|channel|>"], "gpt-oss"),
    (&["<｜hy_Assistant｜>", "<｜hy_begin▁of▁sentence｜>"], "hunyuan-vl"),
    (&["<｜hy_Assistant｜>", "<｜hy_place▁holder▁no▁3｜>"], "hunyuan-dense"),
    (&["<|im_assistant|>assistant<|im_middle|>"], "kimi-k2"),
    (&["<seed:bos>"], "seed_oss"),
    (&["'Assistant: '  + message['content'] + '<|separator|>"], "grok-2"),
    (&["[unused9]系统：[unused10]"], "pangu-embedded"),
    (&["<|begin|>", "<|end|>", "<|content|>"], "solar-open"),
];

/// Contained in templates of the Mistral and Llama 2 families; also said of a text that begins with "mistral".
pub const INST: &str = "[INST]";
