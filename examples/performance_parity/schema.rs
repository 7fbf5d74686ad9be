//! Checks results against docs/performance.schema.json, with the part of JSON Schema that this file uses: `type`,
//! `required`, `properties`, `additionalProperties: false`, `items`, `enum`, `const`, `minimum` and references to `$defs`.

use crate::Result;
use serde_json::Value;

const SCHEMA: &str = include_str!("../../docs/performance.schema.json");

/// Fails with the place of the first difference.
pub fn check(value: &Value) -> Result<()> {
    let schema: Value = serde_json::from_str(SCHEMA)?;
    visit(&schema, &schema, value, "$").map_err(Into::into)
}

fn visit(root: &Value, schema: &Value, value: &Value, at: &str) -> std::result::Result<(), String> {
    let Some(keywords) = schema.as_object() else { return Err(format!("{at}: the schema is no object")) };
    for (keyword, wanted) in keywords {
        match keyword.as_str() {
            "$ref" => {
                let target = wanted.as_str().and_then(|path| root.pointer(path.strip_prefix('#')?));
                visit(root, target.ok_or_else(|| format!("{at}: no {wanted} in the schema"))?, value, at)?;
            }
            "type" => {
                let names = wanted.as_array().map_or(std::slice::from_ref(wanted), Vec::as_slice);
                if !names.iter().any(|name| is_of(value, name.as_str().unwrap_or(""))) {
                    return Err(format!("{at}: not of type {wanted}"));
                }
            }
            "const" if value != wanted => return Err(format!("{at}: not {wanted}")),
            "enum" if !wanted.as_array().is_some_and(|all| all.contains(value)) => {
                return Err(format!("{at}: {value} is none of {wanted}"));
            }
            "minimum" if value.as_f64().zip(wanted.as_f64()).is_some_and(|(v, min)| v < min) => {
                return Err(format!("{at}: {value} is below {wanted}"));
            }
            "required" => {
                for name in wanted.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if value.is_object() && value.get(name).is_none() {
                        return Err(format!("{at}: {name} is missing"));
                    }
                }
            }
            "properties" => {
                for (name, schema) in wanted.as_object().into_iter().flatten() {
                    if let Some(value) = value.get(name) {
                        visit(root, schema, value, &format!("{at}.{name}"))?;
                    }
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                for name in value.as_object().into_iter().flat_map(|object| object.keys()) {
                    if !known.is_some_and(|known| known.contains_key(name)) {
                        return Err(format!("{at}: {name} is unknown"));
                    }
                }
            }
            "items" => {
                for (i, value) in value.as_array().into_iter().flatten().enumerate() {
                    visit(root, wanted, value, &format!("{at}[{i}]"))?;
                }
            }
            "const" | "enum" | "minimum" | "$schema" | "$id" | "$defs" | "title" | "description" => {}
            _ => return Err(format!("{at}: the schema has {keyword}, which is not understood")),
        }
    }
    Ok(())
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use serde_json::json;

    #[test]
    fn results_conform() {
        check(&serde_json::to_value(sample()).unwrap()).unwrap();
    }

    #[test]
    fn what_does_not_conform_is_found() {
        let good = serde_json::to_value(sample()).unwrap();
        type Change = fn(&mut Value);
        let changes: [(&str, Change); 8] = [
            ("schema_version", |v| v["schema_version"] = json!(99)),
            ("rows", |v| v["rows"] = json!({})),
            ("rows[0].status", |v| v["rows"][0]["status"] = json!("perhaps")),
            ("rows[0].ours.n", |v| v["rows"][0]["ours"]["n"] = json!(0)),
            ("rows[1]: id is missing", |v| drop(v["rows"][1].as_object_mut().unwrap().remove("id"))),
            ("extra is unknown", |v| v["extra"] = json!(1)),
            ("environment: cpu is missing", |v| drop(v["environment"].as_object_mut().unwrap().remove("cpu"))),
            ("limits.read_gb_s", |v| v["limits"]["read_gb_s"] = json!("fast")),
        ];
        for (place, change) in changes {
            let mut bad = good.clone();
            change(&mut bad);
            let error = check(&bad).unwrap_err().to_string();
            assert!(error.contains(place), "{place}: {error}");
        }
    }

    #[test]
    fn keywords_that_are_not_understood_are_refused() {
        let schema = json!({"type": "object", "oneOf": []});
        assert!(visit(&schema, &schema, &json!({}), "$").is_err());
    }
}
