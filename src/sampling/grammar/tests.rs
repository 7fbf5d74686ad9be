//! Rules, matching and limits without a vocabulary; tests/grammar.rs compares all of it with llama.cpp.

use super::*;

/// Whether a text matches a grammar as a whole: `None` if no text can begin so.
fn matches(grammar: &str, text: &str) -> Option<bool> {
    let rules = parse(grammar.as_bytes(), b"root", None).unwrap();
    let (mut matcher, state) = Matcher::new(Arc::new(rules)).unwrap();
    let text: Vec<u32> = text.chars().map(u32::from).collect();
    let state = matcher.read(state, &text).unwrap();
    (state != DEAD).then(|| matcher.is_complete(state))
}

fn error(grammar: &str) -> String {
    match parse(grammar.as_bytes(), b"root", None).and_then(|rules| Matcher::new(Arc::new(rules))) {
        Ok(_) => panic!("read: {grammar}"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn texts_match_or_not() {
    let list = "root ::= \"[\" (item (\",\" item)*)? \"]\"\nitem ::= [0-9]+ | root";
    for (text, expected) in [
        ("[]", Some(true)),
        ("[1,[22],[[]]]", Some(true)),
        ("[1,", Some(false)),
        ("[1,,", None),
        ("[]]", None),
        ("", Some(false)),
    ] {
        assert_eq!(matches(list, text), expected, "{text}");
    }
    let counted = "root ::= [^b-y]{2,3} .";
    for (text, expected) in
        [("az", Some(false)), ("azé", Some(true)), ("azéq", Some(true)), ("azéqq", None), ("b", None)]
    {
        assert_eq!(matches(counted, text), expected, "{text}");
    }
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    assert!(error("root ::= \"a\"\n\nroot ::= [a-").contains("line 3"));
    assert!(error("root ::= \"a\" b").contains("'b' is not defined"));
    assert!(error("x ::= \"a\"").contains("no rule 'root'"));
    assert!(error("root ::= root \"a\" | \"b\"").contains("begins with itself"));
    assert!(error("root ::= \"a\"{3,2}").contains("from 3 to 2"));
    assert!(error("root ::= <think>").contains("vocabulary"));
}

#[test]
fn limits_stop_grammars_that_grow_without_end() {
    // Nested deeper than anyone writes, on the small stack of a test's thread.
    let deep = |n: usize| format!("root ::= {}\"a\"{}", "(".repeat(n), ")".repeat(n));
    assert_eq!(matches(&deep(400), "a"), Some(true));
    assert!(error(&deep(100_000)).contains("deep"));
    // Rules that refer to each other in a long row.
    let row = (1..50_000).fold("root ::= r1\n".to_string(), |text, i| text + &format!("r{i} ::= r{}\n", i + 1));
    assert_eq!(matches(&(row + "r50000 ::= \"x\""), "x"), Some(true));
    // Repetitions of long texts.
    let long = format!("root ::= \"{}\"{{2000}}", "x".repeat(10_000));
    assert!(error(&long).contains("elements"));
    // Left recursion that only rules which may be empty in turn make: every step makes the stack longer.
    assert!(error("root ::= a root \"z\" | \"x\"\na ::= b\nb ::= \"y\" | ").contains("ambiguous"));
}

#[test]
fn ambiguity_is_an_error_not_a_hang() {
    // Every character doubles the ways to go on.
    let rules = parse(b"root ::= a\na ::= \"x\" a \"y\" | \"x\" a \"z\" | \"\"", b"root", None).unwrap();
    let (mut matcher, mut state) = Matcher::new(Arc::new(rules)).unwrap();
    let start = std::time::Instant::now();
    let mut n_read = 0;
    let error = loop {
        matcher.refill();
        if matcher.is_full() {
            let mut keep = [state];
            if let Err(e) = matcher.compact(&mut keep) {
                break e;
            }
            [state] = keep;
        }
        match matcher.read(state, &[u32::from('x')]) {
            Ok(next) => state = next,
            Err(e) => break e,
        }
        n_read += 1;
        assert!(n_read < 64);
    };
    assert!(error.to_string().contains("ambiguous"), "{error}");
    assert!(n_read > 10 && start.elapsed().as_secs() < 60, "{n_read}");
}

#[test]
fn forgetting_changes_nothing() {
    let rules = parse(b"root ::= (\"(\" root \")\" | [a-z])*", b"root", None).unwrap();
    let (mut matcher, initial) = Matcher::new(Arc::new(rules)).unwrap();
    let read = |matcher: &mut Matcher, state: State, text: &str| {
        matcher.read(state, &text.chars().map(u32::from).collect::<Vec<_>>()).unwrap()
    };
    let state = read(&mut matcher, initial, "a(((b");
    let before: Vec<_> = matcher.stack_positions(state).collect();
    let mut keep = [initial, state];
    matcher.compact(&mut keep).unwrap();
    let mut after: Vec<_> = matcher.stack_positions(keep[1]).collect();
    after.sort();
    let mut expected = before.clone();
    expected.sort();
    assert_eq!(after, expected);
    let restored = matcher.state_of(before.into_iter()).unwrap();
    assert_eq!(restored, keep[1]);
    let end = read(&mut matcher, restored, ")))z");
    assert!(matcher.is_complete(end));
    let end = read(&mut matcher, keep[0], ")");
    assert_eq!(end, DEAD);
}

#[test]
fn long_texts_do_not_pile_up() {
    let rules = parse(b"root ::= (\"[\" root \"]\")?", b"root", None).unwrap();
    let (mut matcher, mut state) = Matcher::new(Arc::new(rules)).unwrap();
    let (n, mut n_compacted) = (500_000, 0);
    for i in 0..2 * n {
        matcher.refill();
        if matcher.is_full() {
            n_compacted += 1;
            let mut keep = [state];
            matcher.compact(&mut keep).unwrap();
            [state] = keep;
        }
        state = matcher.read(state, &[u32::from(if i < n { '[' } else { ']' })]).unwrap();
        assert_ne!(state, DEAD);
    }
    assert!(matcher.is_complete(state));
    assert!((1..20).contains(&n_compacted), "{n_compacted}");
}
