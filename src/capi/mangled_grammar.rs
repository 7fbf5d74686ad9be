//! Grammars without a sampler, under C++ names, for node-llama-cpp's addon: it reads a text character by character to find
//! out whether it matches. They stand in no header of ours.

use std::ffi::c_char;
use std::ptr::null_mut;
use std::sync::Arc;

use super::cpp::CppVector;
use super::*;
use crate::sampling::grammar::{self, Element, Matcher};
use crate::{Error, Result};

type Stacks = CppVector<CppVector<*const Element>>;

/// What follows a text in a grammar. Callers see the stacks, and may set them.
struct llama_grammar {
    tag: Tag,
    matcher: Matcher,
    stacks: Stacks,
}

impl Tagged for llama_grammar {
    const NAME: &'static str = "grammar";
    fn tag(&self) -> &Tag {
        &self.tag
    }
}

/// llama_grammar_init_impl(llama_vocab const*, char const*, char const*, bool, char const**, unsigned long, int const*,
/// unsigned long): a grammar in GBNF at the start of a text; NULL if it cannot be read. Triggers are for samplers only.
#[unsafe(export_name = "_Z23llama_grammar_init_implPK11llama_vocabPKcS3_bPS3_mPKim")]
unsafe extern "C" fn llama_grammar_init_impl(
    vocab: *const llama_vocab,
    grammar_str: *const c_char,
    grammar_root: *const c_char,
    _lazy: bool,
    _trigger_patterns: *mut *const c_char,
    _num_trigger_patterns: usize,
    _trigger_tokens: *const llama_token,
    _num_trigger_tokens: usize,
) -> *mut llama_grammar {
    guard(null_mut(), || {
        // SAFETY: the caller promises strings and NULL or a live vocabulary.
        let (text, root, vocab) = unsafe {
            (
                c_str(grammar_str, "grammar_str")?.to_bytes(),
                c_str(grammar_root, "grammar_root")?.to_bytes(),
                if vocab.is_null() { None } else { Some(handle_ref(vocab)?.vocab()) },
            )
        };
        let rules = grammar::parse(text, root, vocab.map(|vocab| &**vocab))?;
        let (matcher, state) = Matcher::new(Arc::new(rules))?;
        let tag = Tag::of::<llama_grammar>();
        let mut grammar = Box::new(llama_grammar { tag, matcher, stacks: CppVector::new(&[]) });
        // SAFETY: there are no stacks yet.
        unsafe { grammar.show(state) };
        Ok(Box::into_raw(grammar))
    })
}

/// llama_grammar_free_impl(llama_grammar*)
#[unsafe(export_name = "_Z23llama_grammar_free_implP13llama_grammar")]
unsafe extern "C" fn llama_grammar_free_impl(grammar: *mut llama_grammar) {
    guard((), || {
        if !grammar.is_null() {
            // SAFETY: the caller promises a grammar of llama_grammar_init_impl, given up here.
            unsafe {
                handle_mut(grammar)?.free_stacks();
                drop(Box::from_raw(grammar));
            }
        }
        Ok(())
    });
}

/// llama_grammar_get_stacks(llama_grammar*): what may follow: lists of pointers to elements of rules, one of them empty
/// where the text is complete; none where no text can begin so. They belong to the grammar and change as it accepts.
#[unsafe(export_name = "_Z24llama_grammar_get_stacksP13llama_grammar")]
unsafe extern "C" fn llama_grammar_get_stacks(grammar: *mut llama_grammar) -> *mut Stacks {
    // SAFETY: the caller promises a live grammar.
    guard(null_mut(), || Ok(&raw mut unsafe { handle_mut(grammar) }?.stacks))
}

/// llama_grammar_accept(llama_grammar*, unsigned int): the text goes on with this character.
#[unsafe(export_name = "_Z20llama_grammar_acceptP13llama_grammarj")]
unsafe extern "C" fn llama_grammar_accept(grammar: *mut llama_grammar, chr: u32) {
    guard((), || {
        // SAFETY: the caller promises a live grammar, and stacks that it did not fill with anything else.
        unsafe {
            let grammar = handle_mut(grammar)?;
            grammar.matcher.refill();
            if grammar.matcher.is_full() {
                grammar.matcher.compact(&mut [])?;
            }
            let state = grammar.state()?;
            let state = grammar.matcher.read(state, &[chr])?;
            grammar.show(state);
        }
        Ok(())
    });
}

impl llama_grammar {
    /// The matcher's state with the stacks as callers see them.
    ///
    /// # Safety
    /// The stacks must be vectors as C++ leaves them.
    unsafe fn state(&mut self) -> Result<u32> {
        let first = self.matcher.rules().elements.as_ptr() as usize;
        let position = |&element: &*const Element| {
            let offset = (element as usize).checked_sub(first).filter(|offset| offset % size_of::<Element>() == 0);
            let at = offset.and_then(|offset| u32::try_from(offset / size_of::<Element>()).ok());
            at.ok_or_else(|| Error::argument("a stack with an element of another grammar"))
        };
        // SAFETY: the caller's promise.
        let stacks: Result<Vec<Vec<u32>>> =
            unsafe { self.stacks.items().iter().map(|stack| stack.items().iter().map(position).collect()).collect() };
        self.matcher.state_of(stacks?.into_iter())
    }

    /// Shows callers the stacks of a state.
    ///
    /// # Safety
    /// The stacks must be vectors as C++ leaves them.
    unsafe fn show(&mut self, state: u32) {
        // SAFETY: the caller's promise.
        unsafe { self.free_stacks() };
        let elements = &self.matcher.rules().elements;
        let stack = |positions: Vec<u32>| {
            let pointers: Vec<*const Element> = positions.iter().map(|&at| &raw const elements[at as usize]).collect();
            CppVector::new(&pointers)
        };
        let stacks: Vec<_> = self.matcher.stack_positions(state).map(stack).collect();
        self.stacks = CppVector::new(&stacks);
    }

    /// # Safety
    /// The stacks must be vectors as C++ leaves them.
    unsafe fn free_stacks(&mut self) {
        // SAFETY: the caller's promise; nobody uses them afterwards.
        unsafe {
            for stack in self.stacks.items() {
                let mut stack = *stack;
                stack.free();
            }
            self.stacks.free();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each beginning of the text can be one, and whether the whole text matches, as the addon finds out.
    fn matches(grammar: &std::ffi::CStr, text: &str) -> Option<bool> {
        // SAFETY: strings as they should be; the grammar is freed once.
        unsafe {
            let root = c"root".as_ptr();
            let grammar = llama_grammar_init_impl(
                std::ptr::null(),
                grammar.as_ptr(),
                root,
                false,
                null_mut(),
                0,
                std::ptr::null(),
                0,
            );
            let stacks = &*llama_grammar_get_stacks(grammar);
            for c in text.chars() {
                llama_grammar_accept(grammar, u32::from(c));
                if stacks.items().is_empty() {
                    llama_grammar_free_impl(grammar);
                    return None;
                }
            }
            let is_complete = stacks.items().iter().any(|stack| stack.items().is_empty());
            llama_grammar_free_impl(grammar);
            Some(is_complete)
        }
    }

    #[test]
    fn texts_are_checked_character_by_character() {
        let grammar = c"root ::= \"[\" ([0-9é]+ (\",\" [0-9]+)*)? \"]\"";
        assert_eq!(matches(grammar, "[1,23]"), Some(true));
        assert_eq!(matches(grammar, "[é"), Some(false));
        assert_eq!(matches(grammar, "[]"), Some(true));
        assert_eq!(matches(grammar, "[x"), None);
        // SAFETY: NULL is an error.
        unsafe {
            assert!(llama_grammar_get_stacks(null_mut()).is_null());
            llama_grammar_accept(null_mut(), 1);
            llama_grammar_free_impl(null_mut());
        }
    }

    #[test]
    fn callers_may_set_stacks() {
        // SAFETY: strings as they should be; the stacks that are put back are those of the same grammar.
        unsafe {
            let text = c"root ::= \"ab\" | \"ac\"".as_ptr();
            let grammar = llama_grammar_init_impl(
                std::ptr::null(),
                text,
                c"root".as_ptr(),
                false,
                null_mut(),
                0,
                std::ptr::null(),
                0,
            );
            let stacks = llama_grammar_get_stacks(grammar);
            llama_grammar_accept(grammar, u32::from('a'));
            let saved: Vec<_> = (*stacks).items().iter().map(|stack| CppVector::new(stack.items())).collect();
            assert_eq!(saved.len(), 2);
            for end in ['b', 'c'] {
                llama_grammar_accept(grammar, u32::from(end));
                assert_eq!((*stacks).items().len(), 1, "{end}");
                (*grammar).free_stacks();
                let copies: Vec<_> = saved.iter().map(|stack| CppVector::new(stack.items())).collect();
                *stacks = CppVector::new(&copies);
            }
            saved.into_iter().for_each(|mut stack| stack.free());
            llama_grammar_free_impl(grammar);
        }
    }
}
