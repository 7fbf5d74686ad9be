//! The formats that chat.rs knows, and by which texts it recognizes templates: data only.

use std::ffi::CStr;

use super::{ANY, Held, Instructions, Layout, Template, Turn, Turns};

/// Templates that start with `mistral` count as containing this.
pub(super) const INSTRUCTION: &str = "[INST]";

#[rustfmt::skip]
pub(super) const RULES: &[(&[&str], &CStr)] = &[
    (&["<|im_start|>", "<|im_sep|>"], c"phi4"),
    (&["<|im_start|>", "<end_of_utterance>"], c"smolvlm"),
    (&["<|im_start|>"], c"chatml"),
    (&[INSTRUCTION, "[SYSTEM_PROMPT]"], c"mistral-v7"),
    (&[INSTRUCTION, "' [INST] ' + system_message"], c"mistral-v1"),
    (&[INSTRUCTION, "[AVAILABLE_TOOLS]", " [INST]"], c"mistral-v1"),
    (&[INSTRUCTION, "[AVAILABLE_TOOLS]", "\"[INST]\""], c"mistral-v3-tekken"),
    (&[INSTRUCTION, "[AVAILABLE_TOOLS]"], c"mistral-v3"),
    (&[INSTRUCTION, "content.strip()"], c"llama2-sys-strip"),
    (&[INSTRUCTION, "bos_token + '[INST]"], c"llama2-sys-bos"),
    (&[INSTRUCTION, "<<SYS>>"], c"llama2-sys"),
    (&[INSTRUCTION], c"llama2"),
    (&["<|assistant|>", "<|end|>"], c"phi3"),
    (&["[gMASK]<sop>"], c"chatglm4"),
    (&["<|assistant|>", "<|user|>", "<|tool_declare|>"], c"exaone-moe"),
    (&["<|assistant|>", "<|user|>", "</s>"], c"falcon3"),
    (&["<|assistant|>", "<|user|>"], c"glmedge"),
    (&["<|{{ item['role'] }}|>", "<|begin_of_image|>"], c"glmedge"),
    (&["<|user|>", "<|endoftext|>"], c"zephyr"),
    (&["bos_token + message['role']"], c"monarch"),
    (&["<start_of_turn>"], c"gemma"),
    (&["'\\n\\nAssistant: ' + eos_token"], c"orion"),
    (&["GPT4 Correct "], c"openchat"),
    (&["USER: ", "ASSISTANT: ", "SYSTEM: "], c"vicuna-orca"),
    (&["USER: ", "ASSISTANT: "], c"vicuna"),
    (&["### Instruction:", "<|EOT|>"], c"deepseek"),
    (&["<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"], c"command-r"),
    (&["<|start_header_id|>", "<|end_header_id|>"], c"llama3"),
    (&["[gMASK]sop"], c"chatglm3"),
    (&["<用户>"], c"minicpm"),
    (&["'Assistant: ' + message['content'] + eos_token"], c"deepseek2"),
    (&["<｜Assistant｜>", "<｜User｜>", "<｜end▁of▁sentence｜>"], c"deepseek3"),
    (&["[|system|]", "[|assistant|]", "[|endofturn|]", "[|tool|]"], c"exaone4"),
    (&["[|system|]", "[|assistant|]", "[|endofturn|]"], c"exaone3"),
    (&["rwkv-world"], c"rwkv-world"),
    (&["{{- 'User: ' + message['content']|trim + '\\n\\n' -}}"], c"rwkv-world"),
    (&["<|start_of_role|>", "<tool_call>", "g4_default_system_message"], c"granite-4.0"),
    (&["<|start_of_role|>", "<tools>", "g4_default_system_message"], c"granite-4.0"),
    (&["<|start_of_role|>", "<tool_call>"], c"granite-4.1"),
    (&["<|start_of_role|>", "<tools>"], c"granite-4.1"),
    (&["<|start_of_role|>"], c"granite"),
    (&["message['role'] + additional_special_tokens[0] + message['content'] + additional_special_tokens[1]"], c"gigachat"),
    (&["<|role_start|>"], c"megrez"),
    (&[" Ассистент:"], c"yandex"),
    (&["<role>ASSISTANT</role>", "'HUMAN'"], c"bailing"),
    (&["<role>ASSISTANT</role>", "\"HUMAN\"", "<think>"], c"bailing-think"),
    (&["<role>ASSISTANT</role>", "<role>HUMAN</role>", "<|role_end|>"], c"bailing2"),
    (&["<|header_start|>", "<|header_end|>"], c"llama4"),
    (&["<|endofuserprompt|>"], c"dots1"),
    (&["<|extra_0|>", "<|extra_4|>"], c"hunyuan-moe"),
    (&["<|start|>", "<|channel|>"], c"gpt-oss"),
    (&["<｜hy_Assistant｜>", "<｜hy_begin▁of▁sentence｜>"], c"hunyuan-vl"),
    (&["<｜hy_Assistant｜>", "<｜hy_place▁holder▁no▁3｜>"], c"hunyuan-dense"),
    (&["<|im_assistant|>assistant<|im_middle|>"], c"kimi-k2"),
    (&["<seed:bos>"], c"seed_oss"),
    (&["'Assistant: '  + message['content'] + '<|separator|>"], c"grok-2"),
    (&["[unused9]系统：[unused10]"], c"pangu-embedded"),
    (&["<|begin|>", "<|end|>", "<|content|>"], c"solar-open"),
];

const PLAIN: Turns =
    Turns { start: "", without_system: ("", false), between: "", turns: &[], after_last_user: "", answer: "" };

const fn turn(role: &'static str, before: &'static str, after: &'static str) -> Turn {
    Turn { role, before, after, trim: false, only_first: false, held: Held::No }
}

const fn trimmed(role: &'static str, before: &'static str, after: &'static str) -> Turn {
    Turn { trim: true, ..turn(role, before, after) }
}

const fn first(role: &'static str, before: &'static str, after: &'static str) -> Turn {
    Turn { only_first: true, ..turn(role, before, after) }
}

const LLAMA2: Instructions = Instructions {
    starts_open: true,
    open: "[INST] ",
    reopen: "[INST] ",
    system: ("<<SYS>>\n", "\n<</SYS>>\n\n"),
    close: " [/INST]",
    before_answer: "",
    trim_all: false,
    trim_answer: false,
};
const MISTRAL: Instructions = Instructions {
    starts_open: false,
    open: "[INST] ",
    reopen: "[INST] ",
    system: ("", "\n\n"),
    close: "[/INST]",
    before_answer: " ",
    ..LLAMA2
};

const fn turns(name: &'static CStr, turns: &'static [Turn], answer: &'static str) -> Template {
    Template { name, layout: Layout::Turns(Turns { turns, answer, ..PLAIN }) }
}

const fn started(name: &'static CStr, start: &'static str, turns: &'static [Turn], answer: &'static str) -> Template {
    Template { name, layout: Layout::Turns(Turns { start, turns, answer, ..PLAIN }) }
}

const fn instructions(name: &'static CStr, instructions: Instructions) -> Template {
    Template { name, layout: Layout::Instructions(instructions) }
}

/// dots.llm1 can be found by its template but has no name.
pub(super) static DOTS1: Template = turns(
    c"dots1",
    &[
        turn("system", "<|system|>", "<|endofsystem|>"),
        turn("user", "<|userprompt|>", "<|endofuserprompt|>"),
        turn(ANY, "<|response|>", "<|endofresponse|>"),
    ],
    "<|response|>",
);

/// Sorted by name.
pub(super) static TEMPLATES: [Template; 54] = [
    turns(c"bailing", BAILING, "<role>ASSISTANT</role>"),
    turns(c"bailing-think", BAILING, "<role>ASSISTANT</role><think>"),
    Template {
        name: c"bailing2",
        layout: Layout::Turns(Turns {
            without_system: ("<role>SYSTEM</role>detailed thinking off<|role_end|>", true),
            turns: &[
                turn("user", "<role>HUMAN</role>", "<|role_end|>"),
                turn(ANY, "<role>{ROLE}</role>", "<|role_end|>"),
            ],
            answer: "<role>ASSISTANT</role>",
            ..PLAIN
        }),
    },
    started(c"chatglm3", "[gMASK]sop", &[turn(ANY, "<|{role}|>\n ", "")], "<|assistant|>"),
    started(c"chatglm4", "[gMASK]<sop>", &[turn(ANY, "<|{role}|>\n", "")], "<|assistant|>\n"),
    turns(c"chatml", &[turn(ANY, "<|im_start|>{role}\n", "<|im_end|>\n")], "<|im_start|>assistant\n"),
    turns(
        c"command-r",
        &[
            trimmed("system", "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            trimmed("user", "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            trimmed("assistant", "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ],
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    turns(
        c"deepseek",
        &[
            turn("system", "", ""),
            turn("user", "### Instruction:\n", "\n"),
            turn("assistant", "### Response:\n", "\n<|EOT|>\n"),
        ],
        "### Response:\n",
    ),
    turns(c"deepseek-ocr", &[turn(ANY, "", "")], ""),
    turns(
        c"deepseek2",
        &[
            turn("system", "", "\n\n"),
            turn("user", "User: ", "\n\n"),
            turn("assistant", "Assistant: ", "<｜end▁of▁sentence｜>"),
        ],
        "Assistant:",
    ),
    turns(
        c"deepseek3",
        &[
            turn("system", "", "\n\n"),
            turn("user", "<｜User｜>", ""),
            turn("assistant", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        ],
        "<｜Assistant｜>",
    ),
    turns(
        c"exaone-moe",
        &[
            trimmed("system", "<|system|>\n", "<|endofturn|>\n"),
            trimmed("user", "<|user|>\n", "<|endofturn|>\n"),
            trimmed("assistant", "<|assistant|>\n", "<|endofturn|>\n"),
            trimmed("tool", "<|tool|>\n", "<|endofturn|>\n"),
        ],
        "<|assistant|>\n",
    ),
    turns(
        c"exaone3",
        &[
            trimmed("system", "[|system|]", "[|endofturn|]\n"),
            trimmed("user", "[|user|]", "\n"),
            trimmed("assistant", "[|assistant|]", "[|endofturn|]\n"),
        ],
        "[|assistant|]",
    ),
    turns(
        c"exaone4",
        &[
            trimmed("system", "[|system|]", "[|endofturn|]\n"),
            trimmed("user", "[|user|]", "\n"),
            trimmed("assistant", "[|assistant|]", "[|endofturn|]\n"),
            trimmed("tool", "[|tool|]", "[|endofturn|]\n"),
        ],
        "[|assistant|]",
    ),
    turns(c"falcon3", &[turn(ANY, "<|{role}|>\n", "\n")], "<|assistant|>\n"),
    turns(
        c"gemma",
        &[
            Turn { held: Held::Hold, ..trimmed("system", "", "") },
            trimmed("assistant", "<start_of_turn>model\n", "<end_of_turn>\n"),
            trimmed("model", "<start_of_turn>model\n", "<end_of_turn>\n"),
            Turn { held: Held::Take, ..trimmed(ANY, "<start_of_turn>{role}\n", "<end_of_turn>\n") },
        ],
        "<start_of_turn>model\n",
    ),
    started(
        c"gigachat",
        "<s>",
        &[
            first("system", "", "<|message_sep|>"),
            turn("user", "user<|role_sep|>", "<|message_sep|>available functions<|role_sep|>[]<|message_sep|>"),
            turn("assistant", "assistant<|role_sep|>", "<|message_sep|>"),
        ],
        "assistant<|role_sep|>",
    ),
    turns(c"glmedge", &[turn(ANY, "<|{role}|>\n", "")], "<|assistant|>"),
    turns(
        c"gpt-oss",
        &[
            turn("assistant", "<|start|>assistant<|message|>", "<|return|>"),
            turn(ANY, "<|start|>{role}<|message|>", "<|end|>"),
        ],
        "<|start|>assistant",
    ),
    turns(
        c"granite",
        &[
            turn(
                "assistant_tool_call",
                "<|start_of_role|>assistant_tool_call<|end_of_role|><|tool_call|>",
                "<|end_of_text|>\n",
            ),
            GRANITE_TURN,
        ],
        GRANITE_ANSWER,
    ),
    turns(c"granite-4.0", GRANITE4, GRANITE_ANSWER),
    turns(c"granite-4.1", GRANITE4, GRANITE_ANSWER),
    turns(
        c"grok-2",
        &[
            trimmed("system", "System: ", "<|separator|>\n\n"),
            trimmed("user", "Human: ", "<|separator|>\n\n"),
            turn("assistant", "Assistant: ", "<|separator|>\n\n"),
        ],
        "Assistant:",
    ),
    turns(
        c"hunyuan-dense",
        &[
            first("system", "", "<｜hy_place▁holder▁no▁3｜>"),
            turn("assistant", "<｜hy_Assistant｜>", "<｜hy_place▁holder▁no▁2｜>"),
            turn("user", "<｜hy_User｜>", "<｜hy_Assistant｜>"),
        ],
        "",
    ),
    turns(
        c"hunyuan-moe",
        &[
            turn("system", "<|startoftext|>", "<|extra_4|>"),
            turn("assistant", "", "<|eos|>"),
            turn(ANY, "<|startoftext|>", "<|extra_0|>"),
        ],
        "",
    ),
    started(
        c"hunyuan-vl",
        "<｜hy_begin▁of▁sentence｜>",
        &[
            first("system", "", "<｜hy_place▁holder▁no▁3｜>"),
            turn("user", "", "<｜hy_User｜>"),
            turn("assistant", "", "<｜hy_Assistant｜>"),
        ],
        "",
    ),
    turns(
        c"kimi-k2",
        &[
            turn("system", "<|im_system|>system<|im_middle|>", "<|im_end|>"),
            turn("user", "<|im_user|>user<|im_middle|>", "<|im_end|>"),
            turn("assistant", "<|im_assistant|>assistant<|im_middle|>", "<|im_end|>"),
            turn("tool", "<|im_system|>tool<|im_middle|>", "<|im_end|>"),
            turn(ANY, "", "<|im_end|>"),
        ],
        "<|im_assistant|>assistant<|im_middle|>",
    ),
    instructions(c"llama2", Instructions { system: ("", "\n"), ..LLAMA2 }),
    instructions(c"llama2-sys", LLAMA2),
    instructions(c"llama2-sys-bos", Instructions { reopen: "<s>[INST] ", ..LLAMA2 }),
    instructions(c"llama2-sys-strip", Instructions { trim_all: true, ..LLAMA2 }),
    turns(
        c"llama3",
        &[trimmed(ANY, "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>")],
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    turns(
        c"llama4",
        &[trimmed(ANY, "<|header_start|>{role}<|header_end|>\n\n", "<|eot|>")],
        "<|header_start|>assistant<|header_end|>\n\n",
    ),
    turns(
        c"megrez",
        &[turn(ANY, "<|role_start|>{role}<|role_end|>", "<|turn_end|>")],
        "<|role_start|>assistant<|role_end|>",
    ),
    turns(c"minicpm", &[trimmed("user", "<用户>", "<AI>"), trimmed(ANY, "", "")], ""),
    instructions(c"mistral-v1", Instructions { open: " [INST] ", reopen: " [INST] ", close: " [/INST]", ..MISTRAL }),
    instructions(c"mistral-v3", Instructions { trim_answer: true, ..MISTRAL }),
    instructions(c"mistral-v3-tekken", Instructions { open: "[INST]", reopen: "[INST]", before_answer: "", ..MISTRAL }),
    turns(
        c"mistral-v7",
        &[
            turn("system", "[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"),
            turn("user", "[INST] ", "[/INST]"),
            turn(ANY, " ", "</s>"),
        ],
        "",
    ),
    turns(
        c"mistral-v7-tekken",
        &[
            turn("system", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
            turn("user", "[INST]", "[/INST]"),
            turn(ANY, "", "</s>"),
        ],
        "",
    ),
    Template {
        name: c"monarch",
        layout: Layout::Turns(Turns {
            between: "<s>",
            turns: &[turn(ANY, "{role}\n", "</s>\n")],
            answer: "<s>assistant\n",
            ..PLAIN
        }),
    },
    turns(
        c"openchat",
        &[turn("system", "", "<|end_of_turn|>"), turn(ANY, "GPT4 Correct {Role}: ", "<|end_of_turn|>")],
        "GPT4 Correct Assistant:",
    ),
    turns(
        c"orion",
        &[
            Turn { held: Held::Hold, ..turn("system", "", "") },
            Turn { held: Held::Take, ..turn("user", "Human: ", "\n\nAssistant: </s>") },
            turn(ANY, "", "</s>"),
        ],
        "",
    ),
    Template {
        name: c"pangu-embedded",
        layout: Layout::Turns(Turns {
            without_system: ("[unused9]系统：[unused10]", false),
            turns: &[
                turn("system", "[unused9]系统：", "[unused10]"),
                turn("user", "[unused9]用户：", "[unused10]"),
                turn("assistant", "[unused9]助手：", "[unused10]"),
                turn("tool", "[unused9]工具：", "[unused10]"),
                turn("function", "[unused9]方法：", "[unused10]"),
            ],
            answer: "[unused9]助手：",
            ..PLAIN
        }),
    },
    turns(c"phi3", &[turn(ANY, "<|{role}|>\n", "<|end|>\n")], "<|assistant|>\n"),
    turns(c"phi4", &[turn(ANY, "<|im_start|>{role}<|im_sep|>", "<|im_end|>")], "<|im_start|>assistant<|im_sep|>"),
    Template {
        name: c"rwkv-world",
        layout: Layout::Turns(Turns {
            turns: &[
                trimmed("system", "System: ", "\n\n"),
                trimmed("user", "User: ", "\n\n"),
                trimmed("assistant", "Assistant: ", "\n\n"),
            ],
            after_last_user: "Assistant:",
            ..PLAIN
        }),
    },
    turns(
        c"seed_oss",
        &[trimmed("assistant", "<seed:bos>assistant\n", "<seed:eos>"), turn(ANY, "<seed:bos>{role}\n", "<seed:eos>")],
        "<seed:bos>assistant\n",
    ),
    started(
        c"smolvlm",
        "<|im_start|>",
        &[
            turn("system", "", "\n\n"),
            turn("user", "User: ", "<end_of_utterance>\n"),
            turn(ANY, "Assistant: ", "<end_of_utterance>\n"),
        ],
        "Assistant:",
    ),
    turns(c"solar-open", &[turn(ANY, "<|begin|>{role}<|content|>", "<|end|>")], "<|begin|>assistant"),
    turns(c"vicuna", &[turn("system", "", "\n\n"), VICUNA_USER, VICUNA_ASSISTANT], "ASSISTANT:"),
    turns(c"vicuna-orca", &[turn("system", "SYSTEM: ", "\n"), VICUNA_USER, VICUNA_ASSISTANT], "ASSISTANT:"),
    turns(
        c"yandex",
        &[turn("user", " Пользователь: ", "\n\n"), turn("assistant", " Ассистент: ", "\n\n")],
        " Ассистент:[SEP]",
    ),
    turns(c"zephyr", &[turn(ANY, "<|{role}|>\n", "<|endoftext|>\n")], "<|assistant|>\n"),
];

const BAILING: &[Turn] = &[turn("user", "<role>HUMAN</role>", ""), turn(ANY, "<role>{ROLE}</role>", "")];
const GRANITE_TURN: Turn = turn(ANY, "<|start_of_role|>{role}<|end_of_role|>", "<|end_of_text|>\n");
const GRANITE_ANSWER: &str = "<|start_of_role|>assistant<|end_of_role|>";
const GRANITE4: &[Turn] = &[
    turn("assistant_tool_call", "<|start_of_role|>assistant<|end_of_role|><|tool_call|>", "<|end_of_text|>\n"),
    GRANITE_TURN,
];
const VICUNA_USER: Turn = turn("user", "USER: ", "\n");
const VICUNA_ASSISTANT: Turn = turn("assistant", "ASSISTANT: ", "</s>\n");
