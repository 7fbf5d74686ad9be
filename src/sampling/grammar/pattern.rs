//! Patterns that trigger lazy grammars: regular expressions as C++'s `std::regex` reads them (ECMAScript, byte by byte).
//! They are translated for the engine that this crate uses, with every byte as the character of its number.

use fancy_regex::{Captures, Regex, RegexBuilder};

use crate::{Error, Result};

/// How often the engine may go back before it gives a search up.
const MAX_BACKTRACKS: usize = 1_000_000;
/// The most bytes that a compiled pattern may take.
const MAX_COMPILED: usize = 10 << 20;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    anywhere: Regex,
    /// For patterns from `^` to `$`, which are tried on the whole text first.
    whole: Option<Regex>,
}

/// `bytes` as [`Pattern::find`] wants them.
pub fn push_bytes(text: &mut String, bytes: &[u8]) {
    text.extend(bytes.iter().map(|&b| char::from(b)));
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// [`Error::Argument`]: not a pattern, or one that this library does not know.
    pub fn new(pattern: &[u8]) -> Result<Pattern> {
        let translated = Translator { pattern, at: 0, out: String::new() }.run()?;
        let compile = |regex: &str| {
            RegexBuilder::new(regex)
                .backtrack_limit(MAX_BACKTRACKS)
                .delegate_size_limit(MAX_COMPILED)
                .build()
                .map_err(|e| Error::argument(format!("trigger pattern '{}': {e}", pattern.escape_ascii())))
        };
        let is_whole = pattern.first() == Some(&b'^') && pattern.last() == Some(&b'$');
        let whole = if is_whole { Some(compile(&format!("^(?:{translated})$"))?) } else { None };
        Ok(Pattern { anywhere: compile(&translated)?, whole })
    }

    /// Where in a text of [`push_bytes`] the grammar begins: at the first group that matched something, or else where the
    /// match begins. In bytes of the original text.
    pub fn find(&self, text: &str) -> Option<usize> {
        let search = |regex: &Regex| match regex.captures(text) {
            Ok(captures) => captures.map(|c| start(&c)),
            Err(e) => {
                log::warn!("grammar: a trigger pattern was given up on a text of {} bytes: {e}", text.len());
                None
            }
        };
        let at = self.whole.as_ref().and_then(search).or_else(|| search(&self.anywhere))?;
        Some(text[..at].chars().count())
    }
}

fn start(captures: &Captures<'_>) -> usize {
    let whole = captures.get(0).map_or(0, |m| m.start());
    captures.iter().skip(1).flatten().find(|group| group.end() > group.start()).map_or(whole, |group| group.start())
}

const WORD: &str = "[0-9A-Za-z_]";

/// Turns the pattern into one that says the same to the engine.
struct Translator<'a> {
    pattern: &'a [u8],
    at: usize,
    out: String,
}

impl Translator<'_> {
    fn run(mut self) -> Result<String> {
        let mut after_quantifier = false;
        while let Some(byte) = self.next() {
            let is_quantifier = matches!(byte, b'*' | b'+' | b'?' | b'{');
            if is_quantifier && after_quantifier {
                return Err(self.error("a repetition of a repetition"));
            }
            match byte {
                b'\\' => self.escape()?,
                b'[' => self.class()?,
                b'.' => self.out.push_str("[^\\n\\r]"),
                b'(' => self.group()?,
                b'{' => self.braces()?,
                b'*' | b'+' | b'?' | b')' | b'|' | b'^' | b'$' => self.out.push(char::from(byte)),
                _ => self.literal(u32::from(byte)),
            }
            if is_quantifier && self.peek() == Some(b'?') {
                self.at += 1;
                self.out.push('?');
            }
            after_quantifier = is_quantifier;
        }
        Ok(self.out)
    }

    fn peek(&self) -> Option<u8> {
        self.pattern.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn error(&self, what: &str) -> Error {
        Error::argument(format!("trigger pattern '{}': {what} before byte {}", self.pattern.escape_ascii(), self.at))
    }

    fn literal(&mut self, c: u32) {
        self.out.push_str(&spell(c));
    }

    fn group(&mut self) -> Result<()> {
        self.out.push('(');
        if self.peek() == Some(b'?') {
            self.at += 1;
            let kind = self.next().filter(|b| matches!(b, b':' | b'=' | b'!'));
            self.out.push('?');
            self.out.push(char::from(kind.ok_or_else(|| self.error("unknown kind of group"))?));
        }
        Ok(())
    }

    fn braces(&mut self) -> Result<()> {
        self.out.push('{');
        loop {
            let byte = self.next().filter(|b| b.is_ascii_digit() || matches!(b, b',' | b'}'));
            let byte = byte.ok_or_else(|| self.error("a number of repetitions is expected"))?;
            self.out.push(char::from(byte));
            if byte == b'}' {
                return Ok(());
            }
        }
    }

    fn escape(&mut self) -> Result<()> {
        let byte = self.next().ok_or_else(|| self.error("an escape is cut off"))?;
        match byte {
            b'b' => self.out.push_str(&format!("(?:(?<={WORD})(?!{WORD})|(?<!{WORD})(?={WORD}))")),
            b'B' => self.out.push_str(&format!("(?:(?<={WORD})(?={WORD})|(?<!{WORD})(?!{WORD}))")),
            b'1'..=b'9' => {
                self.out.push_str(&format!("(?:\\{}", char::from(byte)));
                while let Some(digit) = self.peek().filter(u8::is_ascii_digit) {
                    self.at += 1;
                    self.out.push(char::from(digit));
                }
                self.out.push(')');
            }
            _ => match set(byte) {
                Some(set) => self.out.push_str(set),
                None => {
                    let c = self.character(byte)?;
                    self.literal(c);
                }
            },
        }
        Ok(())
    }

    /// The character that an escape with this letter stands for.
    fn character(&mut self, letter: u8) -> Result<u32> {
        Ok(match letter {
            b'0' => 0,
            b'f' => 0x0C,
            b'n' => 0x0A,
            b'r' => 0x0D,
            b't' => 0x09,
            b'v' => 0x0B,
            b'c' => u32::from(self.next().ok_or_else(|| self.error("an escape is cut off"))?),
            b'x' => self.hex(2)?,
            b'u' => self.hex(4)?,
            other => u32::from(other),
        })
    }

    fn hex(&mut self, n: usize) -> Result<u32> {
        let mut value = 0;
        for _ in 0..n {
            let digit = self.next().and_then(|b| char::from(b).to_digit(16));
            value = value << 4 | digit.ok_or_else(|| self.error("hexadecimal digits are expected"))?;
        }
        if value > 0xFF { Err(self.error("not the number of a byte")) } else { Ok(value) }
    }

    fn class(&mut self) -> Result<()> {
        let inverse = self.peek() == Some(b'^');
        self.at += usize::from(inverse);
        let mut members = String::new();
        loop {
            let byte = self.next().ok_or_else(|| self.error("']' is missing"))?;
            if byte == b']' {
                break;
            }
            if byte == b'[' && matches!(self.peek(), Some(b':' | b'.' | b'=')) {
                members.push_str(&self.named_class()?);
                continue;
            }
            if byte == b'\\'
                && let Some(set) = self.peek().and_then(set)
            {
                self.at += 1;
                members.push_str(set);
                continue;
            }
            let first = self.member(byte)?;
            members.push_str(&spell(first));
            let is_range = self.peek() == Some(b'-') && self.pattern.get(self.at + 1).is_some_and(|&b| b != b']');
            if is_range {
                self.at += 1;
                let byte = self.next().ok_or_else(|| self.error("']' is missing"))?;
                if byte == b'\\' && self.peek().and_then(set).is_some() {
                    return Err(self.error("a range ends with a set"));
                }
                let last = self.member(byte)?;
                if last < first {
                    return Err(self.error("a range is upside down"));
                }
                members.push('-');
                members.push_str(&spell(last));
            }
        }
        match (members.is_empty(), inverse) {
            (true, false) => self.out.push_str("[^\\x00-\\x{10ffff}]"),
            (true, true) => self.out.push_str("[\\x00-\\x{10ffff}]"),
            (false, false) => self.out.push_str(&format!("[{members}]")),
            (false, true) => self.out.push_str(&format!("[^{members}]")),
        }
        Ok(())
    }

    fn member(&mut self, byte: u8) -> Result<u32> {
        if byte != b'\\' {
            return Ok(u32::from(byte));
        }
        match self.next().ok_or_else(|| self.error("an escape is cut off"))? {
            b'b' => Ok(0x08),
            letter => self.character(letter),
        }
    }

    /// `[:alpha:]` and the like, inside a class.
    fn named_class(&mut self) -> Result<String> {
        const NAMES: [&str; 12] = [
            "alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "xdigit",
        ];
        let rest = &self.pattern[self.at..];
        let name = NAMES.iter().find(|name| rest.starts_with(format!(":{name}:]").as_bytes()));
        let name = name.ok_or_else(|| self.error("unknown class of characters"))?;
        self.at += name.len() + 3;
        Ok(format!("[:{name}:]"))
    }
}

/// A character in a way that means nothing else, in a class or outside.
fn spell(c: u32) -> String {
    match u8::try_from(c) {
        Ok(byte) if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("\\x{{{c:x}}}"),
    }
}

/// The set of characters that an escape stands for.
fn set(letter: u8) -> Option<&'static str> {
    Some(match letter {
        b'd' => "[0-9]",
        b'D' => "[^0-9]",
        b's' => "[\\t-\\r\\x{20}]",
        b'S' => "[^\\t-\\r\\x{20}]",
        b'w' => WORD,
        b'W' => "[^0-9A-Za-z_]",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(pattern: &str, text: &[u8]) -> Option<usize> {
        let mut string = String::new();
        push_bytes(&mut string, text);
        Pattern::new(pattern.as_bytes()).unwrap().find(&string)
    }

    #[test]
    fn the_first_group_that_matched_counts() {
        assert_eq!(find("abc", b"xxabc"), Some(2));
        assert_eq!(find("a(x)?(bc)", b"xxabc"), Some(3));
        assert_eq!(find("a(x?)(bc)", b"xxabc"), Some(3));
        assert_eq!(find("[\\s\\S]*?(<tool>|\\{)[\\s\\S]*", b"so \xF0\x9F\n<tool>{"), Some(6));
        assert_eq!(find("abc", b"xxab"), None);
    }

    #[test]
    fn whole_patterns_are_tried_on_all_of_the_text() {
        // As a search, the first alternative would match the beginning alone.
        assert_eq!(find("^a|(b)ab$", b"bab"), Some(0));
        assert_eq!(find("^(?:x)?([\\s\\S]*y)$", b"xaay"), Some(1));
        assert_eq!(find("^a$", b"a\n"), None);
        assert_eq!(find("^a$", b"b\na"), None);
    }

    #[test]
    fn bytes_are_characters() {
        assert_eq!(find("\u{e9}", "x\u{e9}".as_bytes()), Some(1));
        assert_eq!(find("^..$", "\u{e9}".as_bytes()), Some(0));
        assert_eq!(find("(\\w)\\b", "\u{e9}a\u{e9}".as_bytes()), Some(2));
        assert_eq!(find("\\w", "\u{e9}".as_bytes()), None);
        assert_eq!(find("\\xA9", "\u{e9}".as_bytes()), Some(1));
        assert_eq!(find("[^\\x00-\\x7f]", "a\u{e9}".as_bytes()), Some(1));
    }

    #[test]
    fn ecmascript_is_understood() {
        assert_eq!(find("a(?=b)", b"acab"), Some(2));
        assert_eq!(find("a(?!c)", b"acab"), Some(2));
        assert_eq!(find("(a)(b)\\2", b"ababb"), Some(2));
        assert_eq!(find("[[:digit:]\\]&&-]{2,3}", b"a]&1"), Some(1));
        assert_eq!(find("\\{\\}\\[\\]\\/\\-<>", b"{}[]/-<>"), Some(0));
        assert_eq!(find("}]", b"a}]"), Some(1));
        assert_eq!(find("a.c", b"a\nc abc"), Some(4));
        assert_eq!(find("[]", b"a"), None);
        assert_eq!(find("[^]", b"\n"), Some(0));
        for bad in ["(", "[", "a{", "\\", "(?<x>a)", "[b-a]", "a**", "[[.a.]]", "\\u1234", "*"] {
            assert!(Pattern::new(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_that_would_take_for_ever_is_given_up() {
        assert_eq!(find("((a+)+)\\1b", &[b'a'; 40]), None);
    }
}
