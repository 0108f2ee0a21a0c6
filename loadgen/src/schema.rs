//! The form of `--json` as a JSON Schema.
//!
//! Owns: its text. Talks to: `result`, from whose types it is derived.

use crate::result::RunResult;

/// The JSON Schema (draft 2020-12) of a [`RunResult`], indented.
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(RunResult);
    serde_json::to_string_pretty(&schema).expect("a schema is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value};

    /// What of a document does not fit a schema, for the words that ours uses.
    fn complaints(root: &Value, schema: &Value, document: &Value, at: &str, found: &mut Vec<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            let definition = name.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
            return complaints(
                root,
                definition.expect("a reference leads to a definition"),
                document,
                at,
                found,
            );
        }
        if let Some(choices) = schema.get("oneOf").or(schema.get("anyOf")).and_then(Value::as_array) {
            let fits = |choice: &&Value| {
                let mut own = Vec::new();
                complaints(root, choice, document, at, &mut own);
                own.is_empty()
            };
            if !choices.iter().any(|choice| fits(&choice)) {
                found.push(format!("{at}: fits none of {}", choices.len()));
            }
            return;
        }
        if schema.get("const").is_some_and(|only| only != document) {
            found.push(format!("{at}: is not {}", schema["const"]));
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if !types.is_empty() && !types.iter().any(|name| is_a(document, name)) {
            found.push(format!("{at}: {document} is none of {types:?}"));
        }
        match document {
            Value::Object(fields) => object(root, schema, fields, at, found),
            Value::Array(items) => {
                for (number, item) in items.iter().enumerate() {
                    let of = schema["prefixItems"].get(number).or(schema.get("items"));
                    if let Some(of) = of {
                        complaints(root, of, item, &format!("{at}/{number}"), found);
                    }
                }
            }
            _ => {}
        }
    }

    fn object(root: &Value, schema: &Value, fields: &Map<String, Value>, at: &str, found: &mut Vec<String>) {
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(required) {
                found.push(format!("{at}: lacks {required}"));
            }
        }
        for (name, field) in fields {
            let at = format!("{at}/{name}");
            match (schema["properties"].get(name), schema.get("additionalProperties")) {
                (Some(of), _) | (None, Some(of)) if of.is_object() => complaints(root, of, field, &at, found),
                (None, None) if schema["properties"].is_object() => found.push(format!("{at}: is not known")),
                _ => {}
            }
        }
    }

    fn is_a(document: &Value, name: &str) -> bool {
        match name {
            "object" => document.is_object(),
            "array" => document.is_array(),
            "string" => document.is_string(),
            "integer" => document.is_u64() || document.is_i64(),
            "number" => document.is_number(),
            "boolean" => document.is_boolean(),
            "null" => document.is_null(),
            other => panic!("a type that this test does not know: {other}"),
        }
    }

    fn check(document: &Value) -> Vec<String> {
        let schema: Value = serde_json::from_str(&json_schema()).unwrap();
        let mut found = Vec::new();
        complaints(&schema, &schema, document, "", &mut found);
        found
    }

    #[test]
    fn a_result_has_the_form_that_the_schema_tells() {
        let mut result = crate::sample::room_push();
        let objectives = crate::profile::defaults(&result).objectives;
        crate::verdict::judge(&mut result, &objectives);
        let document = serde_json::to_value(&result).unwrap();
        assert_eq!(check(&document), [""; 0]);
    }

    #[test]
    fn the_schema_finds_what_does_not_fit() {
        let mut document = serde_json::to_value(crate::sample::room_push()).unwrap();
        document["connections"]["joined"] = "many".into();
        document["verdict"] = "FINE".into();
        document["extra"] = 1.into();
        document.as_object_mut().unwrap().remove("timeline");
        let found = check(&document).join("\n");
        for part in ["lacks timeline", "/connections/joined", "/verdict", "/extra: is not known"] {
            assert!(found.contains(part), "{part} is not in {found}");
        }
    }

    #[test]
    fn every_field_is_described() {
        let schema: Value = serde_json::from_str(&json_schema()).unwrap();
        for (name, field) in schema["properties"].as_object().unwrap() {
            assert!(field["description"].is_string() || field["$ref"].is_string(), "{name}");
        }
    }
}
