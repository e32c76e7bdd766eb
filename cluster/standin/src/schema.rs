//! Structural schemas of definitions: what is pruned, filled in, refused.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Removes what the schema does not know: the paths of it.
pub(crate) fn prune(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_below(schema, object, "", true, &mut unknown);
    unknown
}

fn prune_below(
    schema: &Value,
    value: &mut Value,
    path: &str,
    root: bool,
    unknown: &mut Vec<String>,
) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    let at = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    match value {
        Value::Object(object) => {
            let properties = &schema["properties"];
            let more = &schema["additionalProperties"];
            let names: Vec<String> = object.keys().cloned().collect();
            for name in names {
                // These have a schema of the server's own.
                if root && ["apiVersion", "kind", "metadata"].contains(&name.as_str()) {
                    continue;
                }
                let below = match properties.get(&name) {
                    Some(below) => below,
                    None if more.is_object() => more,
                    None if *more == true => continue,
                    None => {
                        object.shift_remove(&name);
                        unknown.push(at(&name));
                        continue;
                    }
                };
                if let Some(inner) = object.get_mut(&name) {
                    prune_below(below, inner, &at(&name), false, unknown);
                }
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter_mut().enumerate() {
                let path = format!("{path}[{number}]");
                prune_below(&schema["items"], item, &path, false, unknown);
            }
        }
        _ => {}
    }
}

/// Fills in the defaults of objects that are there.
pub(crate) fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(object) => {
            let Some(properties) = schema["properties"].as_object() else {
                let more = &schema["additionalProperties"];
                object.values_mut().for_each(|value| fill(more, value));
                return;
            };
            for (name, below) in properties {
                if below["nullable"] != true && object.get(name).is_some_and(Value::is_null) {
                    // A null where none may be counts as nothing.
                    object.shift_remove(name);
                }
                if !object.contains_key(name) && below.get("default").is_some() {
                    object.insert(name.clone(), below["default"].clone());
                }
                if let Some(inner) = object.get_mut(name) {
                    fill(below, inner);
                }
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| fill(&schema["items"], item)),
        _ => {}
    }
}

/// What is wrong: fields, and why.
pub(crate) fn validate(
    schema: &Value,
    object: &Value,
    before: Option<&Value>,
) -> Vec<(String, String)> {
    let mut causes = Vec::new();
    check(schema, object, "", &mut causes);
    if causes.is_empty() {
        crate::rules::check(schema, object, before, "", &mut causes);
    }
    causes
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check(schema: &Value, value: &Value, path: &str, causes: &mut Vec<(String, String)>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    let mut say = |message: String| {
        let path = if path.is_empty() { "<nil>" } else { path };
        causes.push((path.to_owned(), message));
    };
    let is = kind(value);
    if let Some(wanted) = schema["type"].as_str() {
        let fits = wanted == is || wanted == "number" && is == "integer";
        if !fits {
            say(format!(
                "Invalid value: {is:?}: {path} in body must be of type {wanted}: {is:?}"
            ));
            return;
        }
    } else if schema["x-kubernetes-int-or-string"] == true && !["integer", "string"].contains(&is) {
        say(format!(
            "Invalid value: {is:?}: must be an integer or a string"
        ));
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let listed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        say(format!(
            "Unsupported value: {value}: supported values: {}",
            listed.join(", ")
        ));
    }
    match value {
        Value::String(text) => string(schema, text, &mut say),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            if schema["minimum"]
                .as_f64()
                .is_some_and(|least| number < least)
            {
                say(format!(
                    "Invalid value: {value}: {path} in body should be greater than or equal to {}",
                    schema["minimum"]
                ));
            }
            if schema["maximum"].as_f64().is_some_and(|most| number > most) {
                say(format!(
                    "Invalid value: {value}: {path} in body should be less than or equal to {}",
                    schema["maximum"]
                ));
            }
            let range = match schema["format"].as_str() {
                Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
                _ => None,
            };
            if range.is_some_and(|(least, most)| number < least || number > most) {
                say(format!(
                    "Invalid value: {value}: does not fit into an int32"
                ));
            }
        }
        Value::Array(items) => array(schema, items, path, causes),
        Value::Object(members) => object(schema, members, path, causes),
        _ => {}
    }
}

fn string(schema: &Value, text: &str, say: &mut impl FnMut(String)) {
    let long = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
    if schema["maxLength"].as_u64().is_some_and(|most| long > most) {
        say(format!(
            "Too long: may not be more than {} characters",
            schema["maxLength"]
        ));
    }
    if schema["minLength"]
        .as_u64()
        .is_some_and(|least| long < least)
    {
        say(format!(
            "Invalid value: {text:?}: should be at least {} chars long",
            schema["minLength"]
        ));
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let matches = regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text));
        if !matches {
            say(format!("Invalid value: {text:?}: should match '{pattern}'"));
        }
    }
    if schema["format"] == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
        say(format!(
            "Invalid value: {text:?}: must be of type date-time"
        ));
    }
}

fn array(schema: &Value, items: &[Value], path: &str, causes: &mut Vec<(String, String)>) {
    let many = u64::try_from(items.len()).unwrap_or(u64::MAX);
    if schema["maxItems"].as_u64().is_some_and(|most| many > most) {
        causes.push((
            path.to_owned(),
            format!(
                "Too many: {many}: must have at most {} items",
                schema["maxItems"]
            ),
        ));
        return;
    }
    if schema["minItems"]
        .as_u64()
        .is_some_and(|least| many < least)
    {
        causes.push((
            path.to_owned(),
            format!(
                "Invalid value: {many}: {path} in body should have at least {} items",
                schema["minItems"]
            ),
        ));
    }
    let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let distinct = matches!(
        schema["x-kubernetes-list-type"].as_str(),
        Some("set" | "map")
    );
    let mut seen = BTreeSet::new();
    for (number, item) in items.iter().enumerate() {
        let path = format!("{path}[{number}]");
        let name = if keys.is_empty() {
            item.to_string()
        } else {
            let named: Map<String, Value> = keys
                .iter()
                .map(|&key| (key.to_owned(), item[key].clone()))
                .collect();
            Value::Object(named).to_string()
        };
        if distinct && !seen.insert(name.clone()) {
            causes.push((path.clone(), format!("Duplicate value: {name}")));
        }
        check(&schema["items"], item, &path, causes);
    }
}

fn object(
    schema: &Value,
    members: &Map<String, Value>,
    path: &str,
    causes: &mut Vec<(String, String)>,
) {
    let at = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap_or_default();
        if !members.contains_key(name) {
            causes.push((at(name), "Required value".to_owned()));
        }
    }
    let many = u64::try_from(members.len()).unwrap_or(u64::MAX);
    if schema["maxProperties"]
        .as_u64()
        .is_some_and(|most| many > most)
    {
        causes.push((
            path.to_owned(),
            format!(
                "Too many: {many}: must have at most {} items",
                schema["maxProperties"]
            ),
        ));
    }
    let properties = &schema["properties"];
    let more = &schema["additionalProperties"];
    for (name, value) in members {
        if path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&name.as_str()) {
            continue;
        }
        match properties.get(name) {
            Some(below) => check(below, value, &at(name), causes),
            None if more.is_object() => check(more, value, &at(name), causes),
            None => {}
        }
    }
}
