//! The table of pre-tokenizers: for each name that `tokenizer.ggml.pre` may have, how to cut text and which tokenizer
//! options go with it. Read by load.rs; pretokenize.rs explains and runs the patterns.

use super::pretokenize::{Class, Item, Pattern, Stage};
use super::unicode::is;

/// A family of vocabularies that cut text alike.
#[derive(Debug, Clone, Copy)]
pub struct Pretokenizer {
    /// Values of `tokenizer.ggml.pre`.
    pub names: &'static [&'static str],
    /// How to cut.
    pub stages: &'static [Stage],
    /// A word that is a token as a whole stays so, whatever the merges say.
    pub ignore_merges: bool,
    /// Detokenizing drops spaces before punctuation.
    pub clean_spaces: bool,
    /// Start with BOS unless the file says otherwise.
    pub add_bos: bool,
    /// End with SEP unless the file says otherwise.
    pub add_sep: bool,
    /// Token 11 is BOS unless the file names another; false: there is none.
    pub default_bos: bool,
    /// Whether the file's `add_bos_token = false` is overruled.
    pub force_bos: bool,
    /// Tokens spell bytes by GPT-2's printable characters; false: they are plain UTF-8 with `<0xXX>` for other bytes.
    pub byte_encode: bool,
    /// Spaces become U+2581 first, and tokens are read back accordingly.
    pub escape_whitespaces: bool,
    /// A run of newlines that is a token as a whole stays so.
    pub whole_newlines: bool,
    /// Lower case before tokenizing unless the file says otherwise (read by the `whitespace` model only).
    pub lowercase: bool,
}

const BASE: Pretokenizer = Pretokenizer {
    names: &[],
    stages: &[],
    ignore_merges: false,
    clean_spaces: true,
    add_bos: false,
    add_sep: false,
    default_bos: true,
    force_bos: false,
    byte_encode: true,
    escape_whitespaces: false,
    whole_newlines: false,
    lowercase: true,
};
/// Most newer vocabularies leave spaces as they are.
const EXACT: Pretokenizer = Pretokenizer { clean_spaces: false, ..BASE };
/// Plain UTF-8 with U+2581 for spaces, as SentencePiece has it.
const MARKED: Pretokenizer =
    Pretokenizer { stages: &[Stage::Split(LINES)], byte_encode: false, escape_whitespaces: true, ..BASE };

/// The row for files that name no pre-tokenizer.
pub const DEFAULT: &Pretokenizer = &TABLE[0];

/// The row for `name`.
pub fn find(name: &str) -> Option<&'static Pretokenizer> {
    TABLE.iter().find(|row| row.names.contains(&name))
}

const TABLE: &[Pretokenizer] = &[
    Pretokenizer {
        names: &["default"],
        stages: &[
            Stage::Split(&[&[some(DEFAULT_PUNCTUATION)]]),
            Stage::Split(GPT2),
            Stage::Split(&[&[some(NUMBER)]]),
            Stage::Split(&[&[times(ASCII_DIGIT, 3)]]),
        ],
        ..BASE
    },
    Pretokenizer {
        names: &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        stages: &[Stage::Split(LLAMA3)],
        ignore_merges: true,
        add_bos: true,
        ..BASE
    },
    Pretokenizer { names: &["dbrx", "smaug-bpe"], stages: &[Stage::Split(LLAMA3)], ..BASE },
    Pretokenizer { names: &["chatglm-bpe"], stages: &[Stage::Split(LLAMA3)], default_bos: false, ..BASE },
    Pretokenizer {
        names: &["glm4", "glm5"],
        stages: &[Stage::Split(LLAMA3)],
        default_bos: false,
        ignore_merges: true,
        ..BASE
    },
    Pretokenizer { names: &["jais-2"], stages: &[Stage::Split(JAIS2)], ..BASE },
    Pretokenizer {
        names: &["minicpm5"],
        stages: &[
            Stage::Split(&[&[upto(NUMBER, 3)]]),
            Stage::Split(&[CONTRACTION, WORD, &[some(NUMBER)], OTHERS, LINE_END, SPACES_BEFORE, SPACES]),
        ],
        ignore_merges: true,
        ..BASE
    },
    Pretokenizer {
        names: &["deepseek-llm"],
        stages: &[
            Stage::Split(&[&[one(NEWLINE)]]),
            Stage::Split(&[&[maybe(SPACE_KIND), some(Class::ranges(CASED_LETTERS))]]),
            Stage::Split(&[&[maybe(SPACE_KIND), some(Class::ranges(DEEPSEEK_PUNCTUATION))]]),
            Stage::SplitTrailingSpace,
            Stage::Split(&[&[some(Class::ranges(DEEPSEEK_CJK))]]),
            Stage::Split(&[&[some(NUMBER)]]),
        ],
        ..EXACT
    },
    Pretokenizer {
        names: &["deepseek-coder"],
        stages: &[
            Stage::Split(&[&[one(NEWLINE)]]),
            Stage::Split(&[&[maybe(SPACE_KIND), some(LETTER)]]),
            Stage::Split(&[&[maybe(SPACE_KIND), some(Class::of(is::PUNCTUATION))]]),
            Stage::Split(&[&[some(Class::ranges(DEEPSEEK_CJK))]]),
            Stage::Split(&[&[one(NUMBER)]]),
        ],
        ..EXACT
    },
    Pretokenizer {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        stages: &[
            Stage::Split(&[&[upto(NUMBER, 3)]]),
            Stage::Split(&[&[some(Class::ranges(HAN_KANA))]]),
            Stage::Split(DEEPSEEK3),
        ],
        ..EXACT
    },
    Pretokenizer {
        names: &["spark2_5"],
        stages: &[
            Stage::Split(&[&[upto(NUMBER, 3)]]),
            Stage::Split(&[&[some(Class::ranges(HAN_KANA))]]),
            Stage::Split(&[
                PUNCTUATED_WORD,
                MARKED_WORD_NOT_AFTER_SYMBOL,
                &[maybe(SPACE), some(PUNCTUATION_OR_SYMBOL)],
                &[one(NEWLINE)],
                SPACES_BEFORE,
                SPACES,
            ]),
            Stage::Split(&[&[one(NUMBER)]]),
        ],
        ..EXACT
    },
    Pretokenizer {
        names: &["youtu"],
        stages: &[
            Stage::Split(&[
                &[some(Class::ranges(&[(0xAC00, 0xD7A3), (0x3131, 0x318E)]))],
                &[some(Class::ranges(YOUTU_PUNCTUATION))],
                &[some(Class::ranges(&[(0x3105, 0x312F)]))],
                &[some(Class::ranges(HAN_KANA))],
            ]),
            Stage::Split(&[
                &[maybe(WORD_PREFIX), any(LETTER_OR_MARK), some(LETTER_OR_MARK), MAYBE_CONTRACTION],
                &[one(NUMBER)],
                OTHERS_OR_SLASHES,
                LINE_END,
                SPACES_BEFORE,
                SPACES,
            ]),
        ],
        ignore_merges: true,
        ..EXACT
    },
    Pretokenizer {
        names: &["falcon"],
        stages: &[
            Stage::Split(&[&[some(FALCON_PUNCTUATION)]]),
            Stage::Split(GPT2),
            Stage::Split(&[&[times(ASCII_DIGIT, 3)]]),
        ],
        ..BASE
    },
    Pretokenizer { names: &["starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"], ..DIGITS_GPT2 },
    Pretokenizer { names: &["command-r", "smollm"], clean_spaces: false, ..DIGITS_GPT2 },
    Pretokenizer {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "mpt",
            "olmo",
            "jais",
            "exaone4",
        ],
        stages: &[Stage::Split(GPT2)],
        ..BASE
    },
    Pretokenizer { names: &["trillion", "granite-docling"], stages: &[Stage::Split(GPT2)], ..EXACT },
    Pretokenizer {
        names: &["jina-v1-en", "jina-v2-code", "roberta-bpe"],
        stages: &[Stage::Split(GPT2)],
        add_sep: true,
        ..BASE
    },
    Pretokenizer { names: &["stablelm2", "megrez"], stages: &[Stage::Split(QWEN2)], ..BASE },
    Pretokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "hunyuan", "solar-open", "grok-2"],
        stages: &[Stage::Split(QWEN2)],
        ..EXACT
    },
    Pretokenizer {
        names: &["qwen35"],
        stages: &[Stage::Split(&[
            CONTRACTION,
            &[maybe(WORD_PREFIX), some(LETTER_OR_MARK)],
            &[one(NUMBER)],
            &[maybe(SPACE), some(Class::not(is::WHITESPACE | is::LETTER | is::MARK | is::NUMBER)), any(NEWLINE)],
            LINE_END,
            SPACES_BEFORE,
            SPACES,
        ])],
        ..EXACT
    },
    Pretokenizer { names: &["poro-chat"], stages: &[Stage::Split(BLOOM)], ..EXACT },
    Pretokenizer { names: &["bloom", "gpt3-finnish"], stages: &[Stage::Split(BLOOM)], ..BASE },
    Pretokenizer { names: &["viking"], stages: &[Stage::Split(BLOOM), Stage::Split(&[&[one(NUMBER)]])], ..EXACT },
    Pretokenizer {
        names: &["tekken"],
        stages: &[Stage::Split(&[
            &[maybe(WORD_PREFIX), any(NOT_LOWER), some(NOT_UPPER)],
            &[maybe(WORD_PREFIX), some(NOT_LOWER), any(NOT_UPPER)],
            &[one(NUMBER)],
            OTHERS_OR_SLASHES,
            LINE_END,
            SPACES_BEFORE,
            SPACES,
        ])],
        ignore_merges: true,
        add_bos: true,
        ..EXACT
    },
    Pretokenizer {
        names: &["chameleon"],
        stages: &[
            Stage::Split(&[&[literal(&["<sentinel:"]), some(ASCII_DIGIT), literal(&[">"])]]),
            Stage::Split(&[&[literal(&["IMGIMG"]), upto(Class::ranges(&[(0x41, 0x49)]), 4), literal(&["Z"])]]),
            Stage::Split(&[&[literal(&["\t", "\n", "    ", "  "])]]),
            Stage::Split(&[&[one(NUMBER)]]),
            Stage::Split(&[&[one(Class::of(is::PUNCTUATION | is::ASCII_PUNCTUATION))]]),
            Stage::Split(GPT2),
        ],
        add_bos: true,
        ..EXACT
    },
    Pretokenizer {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        stages: &[Stage::Split(&[
            &[maybe(WORD_PREFIX), any(NOT_LOWER), some(NOT_UPPER), MAYBE_CONTRACTION],
            &[maybe(WORD_PREFIX), some(NOT_LOWER), any(NOT_UPPER), MAYBE_CONTRACTION],
            &[upto(NUMBER, 3)],
            OTHERS_OR_SLASHES,
            LINE_END,
            SPACES_BEFORE,
            SPACES,
        ])],
        ..EXACT
    },
    Pretokenizer {
        names: &["granite-embed-multi-97m"],
        stages: &[Stage::Split(&[
            &[maybe(WORD_PREFIX), any(MARKED_NOT_LOWER), some(MARKED_NOT_UPPER), MAYBE_CONTRACTION],
            &[maybe(WORD_PREFIX), some(MARKED_NOT_LOWER), any(MARKED_NOT_UPPER), MAYBE_CONTRACTION],
            &[upto(NUMBER, 3)],
            OTHERS_OR_SLASHES,
            LINE_END,
            SPACES_BEFORE,
            SPACES,
        ])],
        ignore_merges: true,
        ..EXACT
    },
    Pretokenizer {
        names: &["tiny_aya", "cohere2moe"],
        stages: &[
            THOUSANDS,
            Stage::Split(&[
                &[maybe(WORD_PREFIX), any(LETTER_OR_MARK), some(LETTER_OR_MARK), MAYBE_CONTRACTION],
                &[upto(NUMBER, 3)],
                OTHERS_OR_SLASHES,
                LINE_END,
                SPACES_BEFORE,
                SPACES,
            ]),
        ],
        ..EXACT
    },
    Pretokenizer {
        names: &["superbpe"],
        stages: &[
            Stage::Split(&[&[some(NUMBER)]]),
            Stage::SplitThousands { digits: ASCII_DIGIT, before: true, after: false },
        ],
        ..EXACT
    },
    Pretokenizer {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        stages: &[Stage::Split(&[
            CONTRACTION,
            WORD,
            &[one(NUMBER)],
            OTHERS,
            &[any(SPACE_KIND), one(NEWLINE)],
            SPACES_BEFORE,
            SPACES,
        ])],
        ..EXACT
    },
    Pretokenizer {
        names: &["seed-coder"],
        stages: &[Stage::Split(&[
            CONTRACTION,
            WORD,
            &[one(NUMBER)],
            &[maybe(SPACE), some(NOT_WORD)],
            LINE_END,
            SPACES_BEFORE,
            SPACES,
        ])],
        ..EXACT
    },
    Pretokenizer {
        names: &["kimi-k2"],
        stages: &[Stage::Split(&[
            &[some(Class::of(is::HAN))],
            &[maybe(WORD_PREFIX), some(Class { none: is::HAN, ..LETTER }), MAYBE_CONTRACTION],
            &[upto(NUMBER, 3)],
            OTHERS,
            LINE_END,
            SPACES_BEFORE,
            SPACES,
        ])],
        ..EXACT
    },
    Pretokenizer {
        names: &["ufakzeka"],
        stages: &[Stage::Split(&[WORD, &[one(NUMBER)], OTHERS, LINE_END, SPACES_BEFORE, SPACES])],
        ..EXACT
    },
    Pretokenizer {
        names: &["afmoe"],
        stages: &[THOUSANDS, Stage::Split(&[&[some(Class::ranges(AFMOE_CJK))]]), Stage::Split(DEEPSEEK3)],
        ..EXACT
    },
    Pretokenizer { names: &["laguna"], stages: &[Stage::Split(LINES), Stage::Split(QWEN2)], ..EXACT },
    Pretokenizer {
        names: &["exaone-moe"],
        stages: &[Stage::Split(&[
            CONTRACTION,
            &[maybe(WORD_PREFIX), Item::SpacedLetters],
            &[one(NUMBER)],
            &[maybe(SPACE), some(NOT_WORD), maybe(NEWLINE_OR_SLASH)],
            &[any(SPACE_KIND), one(NEWLINE)],
            SPACES_BEFORE,
            SPACES,
        ])],
        ..BASE
    },
    Pretokenizer { names: &["gemma4", "granite-embed-multi-311m"], whole_newlines: true, force_bos: true, ..MARKED },
    Pretokenizer { names: &["sarvam-moe"], clean_spaces: false, ..MARKED },
    Pretokenizer {
        names: &["whitespace"],
        stages: &[Stage::Split(&[&[some(NOT_SPACE)]])],
        byte_encode: false,
        lowercase: false,
        ..BASE
    },
];

const DIGITS_GPT2: Pretokenizer =
    Pretokenizer { stages: &[Stage::Split(&[&[one(NUMBER)]]), Stage::Split(GPT2)], ..BASE };

/// Groups of three digits from the end of a number; what stands before a number stays with its first digits.
const THOUSANDS: Stage = Stage::SplitThousands { digits: NUMBER, before: false, after: true };

// Classes.
const LETTER: Class = Class::of(is::LETTER);
const NUMBER: Class = Class::of(is::NUMBER);
const LETTER_OR_MARK: Class = Class::of(is::LETTER | is::MARK);
const SPACE: Class = Class::of(is::SPACE);
const SPACE_KIND: Class = Class::of(is::WHITESPACE);
const NOT_SPACE: Class = Class::not(is::WHITESPACE);
const NEWLINE: Class = Class::of(is::NEWLINE);
const LINE_FEED: Class = Class { any: 0, none: 0, ranges: &[(0x0A, 0x0A)], negated: false };
const NEWLINE_OR_SLASH: Class = Class { ranges: &[(0x2F, 0x2F)], ..NEWLINE };
const ASCII_DIGIT: Class = Class::of(is::ASCII_DIGIT);
const ASCII_LETTER: Class = Class::of(is::ASCII_UPPER | is::ASCII_LOWER);
const WORD_PREFIX: Class = Class::not(is::NEWLINE | is::LETTER | is::NUMBER);
const NOT_WORD: Class = Class::not(is::WHITESPACE | is::LETTER | is::NUMBER);
const NOT_LOWER: Class = Class { none: is::ASCII_LOWER, ..LETTER };
const NOT_UPPER: Class = Class { none: is::ASCII_UPPER, ..LETTER };
const MARKED_NOT_LOWER: Class = Class { none: is::ASCII_LOWER, ..LETTER_OR_MARK };
const MARKED_NOT_UPPER: Class = Class { none: is::ASCII_UPPER, ..LETTER_OR_MARK };
const PUNCTUATION_OR_SYMBOL: Class = Class::of(is::PUNCTUATION | is::SYMBOL);
const NOT_PUNCTUATED: Class = Class::not(is::NEWLINE | is::LETTER | is::PUNCTUATION | is::SYMBOL);
/// `\p{P}` and `$+<=>^~|`
const DEFAULT_PUNCTUATION: Class = Class {
    ranges: &[(0x24, 0x24), (0x2B, 0x2B), (0x3C, 0x3E), (0x5E, 0x5E), (0x7C, 0x7C), (0x7E, 0x7E)],
    ..Class::of(is::PUNCTUATION)
};
/// `\p{P}` and all ASCII symbols, the backquote among them
const FALCON_PUNCTUATION: Class = Class::of(is::PUNCTUATION | is::ASCII_PUNCTUATION);

// Items.
const fn run(class: Class, min: usize, max: usize) -> Item {
    Item::Run { class, min, max }
}
const fn one(class: Class) -> Item {
    run(class, 1, 1)
}
const fn maybe(class: Class) -> Item {
    run(class, 0, 1)
}
const fn some(class: Class) -> Item {
    run(class, 1, usize::MAX)
}
const fn any(class: Class) -> Item {
    run(class, 0, usize::MAX)
}
const fn upto(class: Class, max: usize) -> Item {
    run(class, 1, max)
}
const fn times(class: Class, n: usize) -> Item {
    run(class, n, n)
}
const fn literal(texts: &'static [&'static str]) -> Item {
    Item::Literal { texts, ignore_case: false, optional: false }
}
const CONTRACTIONS: &[&str] = &["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
const MAYBE_CONTRACTION: Item = Item::Literal { texts: CONTRACTIONS, ignore_case: true, optional: true };

// Alternatives.
const CONTRACTION: &[Item] = &[Item::Literal { texts: CONTRACTIONS, ignore_case: true, optional: false }];
const WORD: &[Item] = &[maybe(WORD_PREFIX), some(LETTER)];
const OTHERS: &[Item] = &[maybe(SPACE), some(NOT_WORD), any(NEWLINE)];
const OTHERS_OR_SLASHES: &[Item] = &[maybe(SPACE), some(NOT_WORD), any(NEWLINE_OR_SLASH)];
const LINE_END: &[Item] = &[any(SPACE_KIND), some(NEWLINE)];
const SPACES_BEFORE: &[Item] = &[some(SPACE_KIND), Item::NotBefore(NOT_SPACE)];
const SPACES: &[Item] = &[some(SPACE_KIND)];
const PUNCTUATED_WORD: &[Item] = &[one(Class::of(is::ASCII_PUNCTUATION)), some(ASCII_LETTER)];
const MARKED_WORD_NOT_AFTER_SYMBOL: &[Item] = &[maybe(NOT_PUNCTUATED), some(LETTER_OR_MARK)];

// Patterns that several pre-tokenizers share.
const LINES: Pattern = &[&[some(Class { negated: true, ..LINE_FEED })], &[some(LINE_FEED)]];
const GPT2: Pattern = &[
    &[literal(CONTRACTIONS)],
    &[maybe(SPACE), some(LETTER)],
    &[maybe(SPACE), some(NUMBER)],
    &[maybe(SPACE), some(NOT_WORD)],
    SPACES_BEFORE,
    SPACES,
];
const LLAMA3: Pattern = &[CONTRACTION, WORD, &[upto(NUMBER, 3)], OTHERS, LINE_END, SPACES_BEFORE, SPACES];
const QWEN2: Pattern = &[CONTRACTION, WORD, &[one(NUMBER)], OTHERS, LINE_END, SPACES_BEFORE, SPACES];
const JAIS2: Pattern = &[
    CONTRACTION,
    WORD,
    &[upto(NUMBER, 3)],
    OTHERS,
    LINE_END,
    &[times(SPACE_KIND, 512), Item::NotBefore(NOT_SPACE)],
    &[times(SPACE_KIND, 256), Item::NotBefore(NOT_SPACE)],
    &[times(SPACE_KIND, 128), Item::NotBefore(NOT_SPACE)],
    &[times(SPACE_KIND, 64), Item::NotBefore(NOT_SPACE)],
    &[times(SPACE_KIND, 32), Item::NotBefore(NOT_SPACE)],
    &[times(SPACE_KIND, 16), Item::NotBefore(NOT_SPACE)],
    &[times(SPACE_KIND, 8), Item::NotBefore(NOT_SPACE)],
    &[times(SPACE_KIND, 4), Item::NotBefore(NOT_SPACE)],
    &[upto(SPACE_KIND, 2), Item::NotBefore(NOT_SPACE)],
    &[one(SPACE_KIND)],
];
const DEEPSEEK3: Pattern = &[
    PUNCTUATED_WORD,
    MARKED_WORD_NOT_AFTER_SYMBOL,
    &[maybe(SPACE), some(PUNCTUATION_OR_SYMBOL), any(NEWLINE)],
    LINE_END,
    SPACES_BEFORE,
    SPACES,
];
/// All but whitespace and `(|.,!?…。，、।۔،)`
const BLOOM: Pattern = &[&[
    maybe(SPACE),
    some(Class {
        any: is::WHITESPACE,
        none: 0,
        ranges: &[
            (0x21, 0x21),
            (0x28, 0x29),
            (0x2C, 0x2C),
            (0x2E, 0x2E),
            (0x3F, 0x3F),
            (0x7C, 0x7C),
            (0x60C, 0x60C),
            (0x6D4, 0x6D4),
            (0x964, 0x964),
            (0x2026, 0x2026),
            (0x3001, 0x3002),
            (0xFF0C, 0xFF0C),
        ],
        negated: true,
    }),
]];

// Ranges of code points, as the patterns of the original tokenizers list them.
const HAN_KANA: &[(u32, u32)] = &[(0x4E00, 0x9FA5), (0x3040, 0x30FF)];
const DEEPSEEK_CJK: &[(u32, u32)] = &[(0x0800, 0x9FA5), (0xAC00, 0xD7FF)];
const DEEPSEEK_PUNCTUATION: &[(u32, u32)] =
    &[(0x21, 0x2F), (0x3A, 0x7E), (0xFF01, 0xFF0F), (0xFF1A, 0xFF5E), (0x2018, 0x201F), (0x3000, 0x3002)];
const YOUTU_PUNCTUATION: &[(u32, u32)] = &[
    (0x2014, 0x2014),
    (0x2018, 0x2019),
    (0x201C, 0x201D),
    (0x2026, 0x2026),
    (0x3001, 0x303F),
    (0xFE30, 0xFE4F),
    (0xFF01, 0xFF01),
    (0xFF0C, 0xFF0C),
    (0xFF1A, 0xFF1B),
];
/// The range up to U+FAFF starts in the middle of the ideographs, so most of what lies between is in as well.
const AFMOE_CJK: &[(u32, u32)] = &[
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x8C48, 0xFAFF),
    (0x3040, 0x30FF),
    (0xFF65, 0xFF9F),
    (0x2F00, 0x2FDF),
    (0x0E40, 0x0EFF),
    (0x1780, 0x17FF),
    (0x1000, 0x109F),
    (0xAA60, 0xAA7F),
    (0xA9E0, 0xA9FF),
    (0xAC00, 0xD7AF),
    (0x1100, 0x11FF),
];
/// Letters that have case, of Unicode 13.
#[rustfmt::skip]
const CASED_LETTERS: &[(u32, u32)] = &[
    (0x41, 0x5A), (0x61, 0x7A), (0xB5, 0xB5), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x1BA), (0x1BC, 0x1BF),
    (0x1C4, 0x293), (0x295, 0x2AF), (0x370, 0x373), (0x376, 0x376), (0x377, 0x377), (0x37B, 0x37D), (0x37F, 0x37F),
    (0x386, 0x386), (0x388, 0x38A), (0x38C, 0x38C), (0x38E, 0x3A1), (0x3A3, 0x3F5), (0x3F7, 0x481), (0x48A, 0x52F),
    (0x531, 0x556), (0x10A0, 0x10C5), (0x13A0, 0x13F5), (0x13F8, 0x13FD), (0x1C90, 0x1CBA), (0x1CBD, 0x1CBF),
    (0x1D00, 0x1D2B), (0x1D6B, 0x1D77), (0x1D79, 0x1D9A), (0x1E00, 0x1F15), (0x1F18, 0x1F1D), (0x1F20, 0x1F45),
    (0x1F48, 0x1F4D), (0x1F50, 0x1F57), (0x1F59, 0x1F59), (0x1F5B, 0x1F5B), (0x1F5D, 0x1F5D), (0x1F5F, 0x1F7D),
    (0x1F80, 0x1FB4), (0x1FB6, 0x1FBC), (0x1FBE, 0x1FBE), (0x1FC2, 0x1FC4), (0x1FC6, 0x1FCC), (0x1FD0, 0x1FD3),
    (0x1FD6, 0x1FDB), (0x1FE0, 0x1FEC), (0x1FF2, 0x1FF4), (0x1FF6, 0x1FFC), (0x2102, 0x2102), (0x2107, 0x2107),
    (0x210A, 0x2113), (0x2115, 0x2115), (0x2119, 0x211D), (0x2124, 0x2124), (0x2126, 0x2126), (0x2128, 0x2128),
    (0x212A, 0x212D), (0x212F, 0x2134), (0x2139, 0x2139), (0x213C, 0x213F), (0x2145, 0x2149), (0x214E, 0x214E),
    (0x2183, 0x2183), (0x2184, 0x2184), (0x2C00, 0x2C7B), (0x2C7E, 0x2CE4), (0x2CEB, 0x2CEE), (0x2CF2, 0x2CF2),
    (0x2CF3, 0x2CF3), (0xA640, 0xA66D), (0xA680, 0xA69B), (0xA722, 0xA76F), (0xA771, 0xA787), (0xA78B, 0xA78E),
    (0xAB70, 0xABBF), (0xFB00, 0xFB06), (0xFB13, 0xFB17), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A), (0x10400, 0x1044F),
    (0x104B0, 0x104D3), (0x104D8, 0x104FB), (0x10C80, 0x10CB2), (0x10CC0, 0x10CF2), (0x118A0, 0x118DF),
    (0x1E900, 0x1E943),
];
