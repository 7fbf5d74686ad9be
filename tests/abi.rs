//! The headers declare what llama.cpp's do: bindgen reads include/*.h, and every struct, enum, typedef, macro and function
//! in them is compared with the facts in tests/abi/*.txt. What the library exports, the headers declare.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fancy_regex::Regex;

#[test]
fn functions_have_the_prototypes_of_the_interface() {
    let (found, facts) = (bindings(), facts());
    let functions = captures(&found, r"pubfn(\w+)\((.*?)\)(?:->([^;]*))?;");
    assert!(functions.len() > 200, "bindgen found {} functions", functions.len());
    let prototypes: BTreeMap<_, _> =
        captures(&facts, r"(?m)^fn (\w+)\((.*)\) -> (.*)$").into_iter().map(|c| (c[0].clone(), c)).collect();
    for function in functions {
        let [name, args, result] = &function[..] else { unreachable!() };
        if name.starts_with("infer_") {
            continue;
        }
        let prototype = prototypes.get(name).unwrap_or_else(|| panic!("{name} is not part of the interface"));
        assert_eq!(without_names(args), rust_list(&prototype[1]), "arguments of {name}");
        let expected = if prototype[2] == "void" { String::new() } else { rust_type(&prototype[2]) };
        let result = if result == "!" { "" } else { result };
        assert_eq!(result, expected, "result of {name}");
    }
}

#[test]
fn exported_functions_are_declared() {
    let found = bindings();
    let declared: BTreeSet<String> = captures(&found, r"pubfn(\w+)\(").into_iter().map(|c| c[0].clone()).collect();
    let exported = std::fs::read_to_string(root().join("tests/abi/symbols.txt")).unwrap();
    // C++ names belong to no C header.
    let exported: BTreeSet<String> = exported.lines().filter(|n| !n.starts_with("_Z")).map(String::from).collect();
    assert_eq!(declared, exported);
}

#[test]
fn structs_have_the_layout_of_the_interface() {
    let (found, facts) = (bindings(), facts());
    let number = |pattern: &str| captures(&found, pattern).first().map(|c| c[0].clone());
    let mut n = 0;
    for part in facts.split("\nstruct ").skip(1) {
        let mut lines = part.lines();
        let head = captures(lines.next().unwrap(), r"^(\w+) size=(\d+) align=(\d+)").remove(0);
        let name = &head[0];
        let Some(size) = number(&format!(r#"\["Sizeof{name}"\]\[[^-]*-(\d+)usize\]"#)) else { continue };
        n += 1;
        assert_eq!(size, head[1], "size of {name}");
        let align = number(&format!(r#"\["Alignmentof{name}"\]\[[^-]*-(\d+)usize\]"#));
        assert_eq!(align.as_ref(), Some(&head[2]), "alignment of {name}");
        let body = captures(&found, &format!(r"pubstruct{name}\{{([^}}]*)\}}")).remove(0).remove(0);
        let body = format!("{},", without_names(&body));
        for line in lines.take_while(|line| line.starts_with("  +")) {
            let field = captures(line, r"^  \+(\d+)\s+(?:\(anonymous union\) .*|(\w+): (.*))$").remove(0);
            let [offset, field, ty] = &field[..] else { unreachable!() };
            let field = match field.as_str() {
                // bindgen tells nothing of anonymous unions; tests/border.c checks where they are.
                "" => continue,
                "type" => "type_",
                "async" => "async_",
                "pure" => "pure_",
                other => other,
            };
            let found = number(&format!(r#"\["Offsetoffield:{name}::{field}"\]\[[^-]*-(\d+)usize\]"#));
            assert_eq!(found.as_ref(), Some(offset), "offset of {name}.{field}");
            if ty.starts_with("struct {") {
                // bindgen makes up names for these; their members follow from where the next one lies.
                continue;
            }
            let declared = format!("pub{field}:{},", rust_type(ty));
            assert!(body.contains(&declared), "{name}: expected {declared} in {body}");
        }
    }
    assert!(n > 20, "bindgen found {n} of the structs");
}

#[test]
fn enums_have_the_values_of_the_interface() {
    let (found, facts) = (bindings(), facts());
    let values: BTreeMap<String, String> =
        captures(&found, r"pubconst(\w+):\w+=(-?\d+);").into_iter().map(|c| (c[0].clone(), c[1].clone())).collect();
    let mut n = 0;
    for line in captures(&facts, r"(?m)^enum (\w+) size=4: (.*)$") {
        if !found.contains(&format!("pubtype{}=", line[0])) {
            continue;
        }
        n += 1;
        for constant in line[1].split(", ") {
            let (name, value) = constant.split_once('=').unwrap();
            assert_eq!(values.get(name).map(String::as_str), Some(value), "{name}");
        }
    }
    assert!(n > 15, "bindgen found {n} of the enums");
}

#[test]
fn macros_and_typedefs_are_those_of_the_interface() {
    let (found, facts) = (bindings(), facts());
    for macro_ in captures(&facts, r"(?m)^macro (\w+) = (.*)$") {
        let value = macro_[1].replace(' ', "");
        let value = value.trim_end_matches('u');
        let value = match value.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).unwrap(),
            None => value.parse().unwrap(),
        };
        if let Some(declared) = captures(&found, &format!(r"pubconst{}:\w+=(-?\d+);", macro_[0])).first() {
            assert_eq!(declared[0], value.to_string(), "{}", macro_[0]);
        }
    }
    for typedef in captures(&facts, r"(?m)^typedef (\w+) = (.*)$") {
        if typedef[1] == format!("struct {}", typedef[0]) {
            continue;
        }
        if let Some(declared) = captures(&found, &format!(r"pubtype{}=([^;]*);", typedef[0])).first() {
            assert_eq!(without_names(&declared[0]), rust_type(&typedef[1]), "{}", typedef[0]);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn facts() -> String {
    ["llama.txt", "ggml.txt"]
        .map(|file| std::fs::read_to_string(root().join("tests/abi").join(file)).unwrap())
        .join("\n")
}

/// What bindgen makes of all headers, without white space.
fn bindings() -> String {
    let names = ["llama.h", "ggml-alloc.h", "ggml-opt.h", "infer.h"];
    let includes: String = names.iter().map(|name| format!("#include \"{name}\"\n")).collect();
    let bindings = bindgen::Builder::default()
        .header_contents("all.h", &includes)
        .clang_arg(format!("-I{}", root().join("include").display()))
        .allowlist_item("(llama|ggml|gguf|infer|LLAMA|GGML|GGUF)_.*")
        .prepend_enum_name(false)
        .generate_comments(false)
        .formatter(bindgen::Formatter::None)
        .generate()
        .expect("bindgen reads the headers");
    bindings.to_string().split_whitespace().collect()
}

/// The groups of every match; those that took no part are empty.
fn captures(text: &str, pattern: &str) -> Vec<Vec<String>> {
    let matches = Regex::new(pattern).unwrap();
    let groups = |c: fancy_regex::Captures| {
        (1..c.len()).map(|i| c.get(i).map_or(String::new(), |g| g.as_str().to_string())).collect()
    };
    matches.captures_iter(text).map(|c| groups(c.unwrap())).collect()
}

/// Drops the names of arguments, and the comma after the last.
fn without_names(args: &str) -> String {
    let names = Regex::new(r"(^|[(,])(?!pub)\w+:").unwrap();
    names.replace_all(args, "$1").replace(",)", ")").trim_end_matches(',').to_string()
}

fn rust_list(c_types: &str) -> String {
    if c_types.is_empty() { String::new() } else { c_types.split(", ").map(rust_type).collect::<Vec<_>>().join(",") }
}

/// A C type as bindgen spells it, without white space.
fn rust_type(c: &str) -> String {
    let c = c.trim().trim_end_matches("restrict").trim();
    if let Some((result, args)) = c.split_once(" (*)(").or_else(|| c.split_once("(*)(")) {
        let result = if result == "void" { String::new() } else { format!("->{}", rust_type(result)) };
        let args = rust_list(args.trim_end_matches(')'));
        return format!("::std::option::Option<unsafeextern\"C\"fn({args}){result}>");
    }
    if let Some((element, n)) = c.strip_suffix(']').and_then(|c| c.rsplit_once('[')) {
        return format!("[{};{n}usize]", rust_type(element));
    }
    if let Some(target) = c.strip_suffix('*') {
        return match target.trim().strip_prefix("const ") {
            Some(target) if !target.ends_with('*') => format!("*const{}", rust_type(target)),
            _ => format!("*mut{}", rust_type(target)),
        };
    }
    let c = c.strip_prefix("const ").unwrap_or(c);
    let c = c.strip_prefix("struct ").or_else(|| c.strip_prefix("enum ")).unwrap_or(c);
    match c {
        "float" => "f32",
        "double" => "f64",
        "_Bool" => "bool",
        "size_t" => "usize",
        "int" => "::std::os::raw::c_int",
        "char" => "::std::os::raw::c_char",
        "void" => "::std::os::raw::c_void",
        "int8_t" => "i8",
        "uint8_t" => "u8",
        "uint16_t" => "u16",
        "int16_t" => "i16",
        "int32_t" => "i32",
        "uint32_t" => "u32",
        "int64_t" => "i64",
        "uint64_t" => "u64",
        other => other,
    }
    .to_string()
}
