//! What node-llama-cpp's addon asks about architectures, under C++ names: which there are, and which keep a state instead
//! of a KV cache. They stand in no header of ours.

use std::ffi::{CStr, c_char};

use super::cpp::{CppString, CppVector};
use super::*;
use crate::vocab;

/// What a model of an architecture remembers a text by.
#[derive(Clone, Copy, PartialEq)]
enum Memory {
    /// A KV cache, or nothing.
    Other,
    /// A state.
    Recurrent,
    /// Both.
    Hybrid,
}

use Memory::{Hybrid, Other, Recurrent};

/// By the numbers of the release v0.5.0, for which the addon is built: it compares with the one for unknown names. What
/// llama.cpp has put in since comes after that.
#[rustfmt::skip]
static ARCHS: [(&CStr, Memory); 154] = [
    (c"clip", Other),
    (c"llama", Other),
    (c"llama4", Other),
    (c"deci", Other),
    (c"falcon", Other),
    (c"baichuan", Other),
    (c"grok", Other),
    (c"gpt2", Other),
    (c"gptj", Other),
    (c"gptneox", Other),
    (c"mpt", Other),
    (c"starcoder", Other),
    (c"refact", Other),
    (c"bert", Other),
    (c"modern-bert", Other),
    (c"nomic-bert", Other),
    (c"nomic-bert-moe", Other),
    (c"neo-bert", Other),
    (c"jina-bert-v2", Other),
    (c"jina-bert-v3", Other),
    (c"eurobert", Other),
    (c"bloom", Other),
    (c"stablelm", Other),
    (c"qwen", Other),
    (c"qwen2", Other),
    (c"qwen2moe", Other),
    (c"qwen2vl", Other),
    (c"qwen3", Other),
    (c"qwen3moe", Other),
    (c"qwen3next", Hybrid),
    (c"qwen3vl", Other),
    (c"qwen3vlmoe", Other),
    (c"qwen35", Hybrid),
    (c"qwen35moe", Hybrid),
    (c"qwen4exp", Hybrid),
    (c"phi2", Other),
    (c"phi3", Other),
    (c"phimoe", Other),
    (c"plamo", Other),
    (c"plamo2", Hybrid),
    (c"plamo3", Other),
    (c"codeshell", Other),
    (c"orion", Other),
    (c"internlm2", Other),
    (c"minicpm", Other),
    (c"minicpm3", Other),
    (c"gemma", Other),
    (c"gemma2", Other),
    (c"gemma3", Other),
    (c"gemma3n", Other),
    (c"gemma4", Other),
    (c"gemma4-assistant", Other),
    (c"gemma-embedding", Other),
    (c"starcoder2", Other),
    (c"mamba", Recurrent),
    (c"mamba2", Recurrent),
    (c"maple", Other),
    (c"jamba", Hybrid),
    (c"falcon-h1", Hybrid),
    (c"xverse", Other),
    (c"command-r", Other),
    (c"cohere2", Other),
    (c"cohere2moe", Other),
    (c"dbrx", Other),
    (c"olmo", Other),
    (c"olmo2", Other),
    (c"olmoe", Other),
    (c"muse-glimmer", Other),
    (c"openelm", Other),
    (c"arctic", Other),
    (c"deepseek", Other),
    (c"deepseek2", Other),
    (c"deepseek2-ocr", Other),
    (c"deepseek32", Other),
    (c"deepseek4", Hybrid),
    (c"chatglm", Other),
    (c"glm4", Other),
    (c"glm4moe", Other),
    (c"glm-dsa", Other),
    (c"bitnet", Other),
    (c"t5", Other),
    (c"t5encoder", Other),
    (c"jais", Other),
    (c"jais2", Other),
    (c"nemotron", Other),
    (c"nemotron_h", Hybrid),
    (c"nemotron_h_moe", Hybrid),
    (c"exaone", Other),
    (c"exaone4", Other),
    (c"exaone-moe", Other),
    (c"rwkv6", Recurrent),
    (c"rwkv6qwen2", Recurrent),
    (c"rwkv7", Recurrent),
    (c"arwkv7", Recurrent),
    (c"granite", Other),
    (c"granitemoe", Other),
    (c"granitehybrid", Hybrid),
    (c"graniteswitch", Other),
    (c"granite_swa", Other),
    (c"chameleon", Other),
    (c"wavtokenizer-dec", Other),
    (c"plm", Other),
    (c"bailingmoe", Other),
    (c"bailingmoe2", Other),
    (c"bailingmoe3", Hybrid),
    (c"dots1", Other),
    (c"dots3note", Other),
    (c"arcee", Other),
    (c"afmoe", Other),
    (c"laguna", Other),
    (c"ernie4_5", Other),
    (c"ernie4_5-moe", Other),
    (c"hunyuan-moe", Other),
    (c"hunyuan-dense", Other),
    (c"hunyuan_vl", Other),
    (c"hy_v3", Other),
    (c"hy_v4", Other),
    (c"smollm3", Other),
    (c"gpt-oss", Other),
    (c"lfm2", Hybrid),
    (c"lfm2moe", Hybrid),
    (c"dream", Other),
    (c"smallthinker", Other),
    (c"llada", Other),
    (c"llada-moe", Other),
    (c"seed_oss", Other),
    (c"grovemoe", Other),
    (c"apertus", Other),
    (c"minimax-m2", Other),
    (c"cogvlm", Other),
    (c"rnd1", Other),
    (c"pangu-embedded", Other),
    (c"mistral3", Other),
    (c"mistral4", Other),
    (c"paddleocr", Other),
    (c"mimo2", Other),
    (c"step35", Other),
    (c"spark2_5", Other),
    (c"llama-embed", Other),
    (c"maincoder", Other),
    (c"kimi-linear", Hybrid),
    (c"kimi-k3", Hybrid),
    (c"talkie", Other),
    (c"mellum", Other),
    (c"eagle3", Other),
    (c"minimax-m3", Other),
    (c"dflash", Other),
    (c"nanbeige", Other),
    (c"qwen3tts", Other),
    (c"pockettts", Other),
    (c"minimax-01", Hybrid),
    (c"hrm_text", Other),
    (c"(unknown)", Other),
    (c"glm5-next", Hybrid),
];

const UNKNOWN: u32 = 152;

/// llm_arch_all(): the numbers of all architectures. The caller passes where the vector goes.
#[unsafe(export_name = "_Z12llm_arch_allv")]
unsafe extern "C" fn llm_arch_all(out: *mut CppVector<u32>) -> *mut CppVector<u32> {
    let numbers: Vec<u32> = (0..ARCHS.len() as u32).collect();
    // SAFETY: the calling convention gives memory for the result.
    unsafe { out.write(CppVector::new(&numbers)) };
    out
}

/// llm_arch_name(llm_arch): its name in files.
#[unsafe(export_name = "_Z13llm_arch_name8llm_arch")]
extern "C" fn llm_arch_name(arch: u32) -> *const c_char {
    ARCHS.get(arch as usize).map_or(c"unknown", |(name, _)| name).as_ptr()
}

/// llm_arch_from_string(std::string const&): the number of the architecture of that name.
#[unsafe(export_name = "_Z20llm_arch_from_stringRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE")]
unsafe extern "C" fn llm_arch_from_string(name: *const CppString) -> u32 {
    guard(UNKNOWN, || {
        // SAFETY: the caller passes a string.
        let name = unsafe { CppString::bytes(name) }?;
        Ok(ARCHS.iter().position(|(known, _)| known.to_bytes() == name).map_or(UNKNOWN, |i| i as u32))
    })
}

/// llm_arch_is_recurrent(llm_arch const&)
#[unsafe(export_name = "_Z21llm_arch_is_recurrentRK8llm_arch")]
unsafe extern "C" fn llm_arch_is_recurrent(arch: *const u32) -> bool {
    // SAFETY: the caller passes a number.
    unsafe { has(arch, Recurrent) }
}

/// llm_arch_is_hybrid(llm_arch const&)
#[unsafe(export_name = "_Z18llm_arch_is_hybridRK8llm_arch")]
unsafe extern "C" fn llm_arch_is_hybrid(arch: *const u32) -> bool {
    // SAFETY: the caller passes a number.
    unsafe { has(arch, Hybrid) }
}

/// # Safety
/// `arch` must be NULL or point to a number.
unsafe fn has(arch: *const u32, memory: Memory) -> bool {
    // SAFETY: the caller's promise.
    let arch = unsafe { arch.as_ref() }.and_then(|arch| ARCHS.get(*arch as usize));
    arch.is_some_and(|(_, m)| *m == memory)
}

/// unicode_cpts_from_utf8(std::string const&): the code points of a text. The caller passes where the vector goes.
#[unsafe(export_name = "_Z22unicode_cpts_from_utf8RKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE")]
unsafe extern "C" fn unicode_cpts_from_utf8(out: *mut CppVector<u32>, text: *const CppString) -> *mut CppVector<u32> {
    let points: Vec<u32> = guard(Vec::new(), || {
        // SAFETY: the caller passes a string.
        Ok(vocab::codepoints(unsafe { CppString::bytes(text) }?).collect())
    });
    // SAFETY: the calling convention gives memory for the result.
    unsafe { out.write(CppVector::new(&points)) };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_found_by_name() {
        let number = |name: &str| {
            // SAFETY: the string lives as long as the call.
            unsafe { llm_arch_from_string(&CppString::of(name.as_bytes())) }
        };
        assert_eq!([number("clip"), number("llama"), number("nonsense")], [0, 1, UNKNOWN]);
        // SAFETY: numbers, names that are constants, and vectors that are read while they live.
        unsafe {
            assert_eq!(CStr::from_ptr(llm_arch_name(UNKNOWN)), c"(unknown)");
            assert_eq!(CStr::from_ptr(llm_arch_name(9999)), c"unknown");
            assert!(llm_arch_is_recurrent(&number("mamba")) && !llm_arch_is_hybrid(&number("mamba")));
            assert!(llm_arch_is_hybrid(&number("jamba")) && !llm_arch_is_recurrent(&number("llama")));
            let mut all = CppVector::new(&[]);
            assert_eq!((*llm_arch_all(&mut all)).items().len(), ARCHS.len());
            all.free();
            let mut points = CppVector::new(&[]);
            unicode_cpts_from_utf8(&mut points, &CppString::of("aé\u{1F980}".as_bytes()));
            assert_eq!(points.items(), [0x61, 0xE9, 0x1F980]);
            points.free();
        }
    }
}
