//! `x-kubernetes-validations`: rules in CEL.

use std::collections::HashMap;

use cel::{Context, Program, Value as Cel};
use serde_json::Value;

/// Checks the rules of a schema and of everything below it.
pub(crate) fn check(
    schema: &Value,
    value: &Value,
    before: Option<&Value>,
    path: &str,
    causes: &mut Vec<(String, String)>,
) {
    for rule in schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let text = rule["rule"].as_str().unwrap_or_default();
        let transition = text.contains("oldSelf");
        if transition && before.is_none() {
            continue;
        }
        let said = match holds(text, value, before) {
            Ok(true) => continue,
            Ok(false) => rule["message"]
                .as_str()
                .map_or_else(|| format!("failed rule: {text}"), str::to_owned),
            Err(why) => format!("rule evaluation error: {why} in {text}"),
        };
        let path = format!("{path}{}", rule["fieldPath"].as_str().unwrap_or_default());
        let path = if path.is_empty() {
            "<nil>".to_owned()
        } else {
            path
        };
        causes.push((path, format!("Invalid value: {}: {said}", kind(value))));
    }
    let at = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    match value {
        Value::Object(members) => {
            for (name, inner) in members {
                let below = match schema["properties"].get(name) {
                    Some(below) => below,
                    None => &schema["additionalProperties"],
                };
                let before = before.and_then(|before| before.get(name));
                check(below, inner, before, &at(name), causes);
            }
        }
        Value::Array(items) => {
            // Items of lists that are no maps have no state from before.
            for (number, item) in items.iter().enumerate() {
                let path = format!("{path}[{number}]");
                check(&schema["items"], item, None, &path, causes);
            }
        }
        _ => {}
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "\"object\"",
        Value::Array(_) => "\"array\"",
        Value::String(_) => "\"string\"",
        _ => "value",
    }
}

fn holds(rule: &str, value: &Value, before: Option<&Value>) -> Result<bool, String> {
    let program = Program::compile(rule).map_err(|error| error.to_string())?;
    let mut context = Context::default();
    context.add_variable_from_value("self", cel(value));
    if let Some(before) = before {
        context.add_variable_from_value("oldSelf", cel(before));
    }
    match program.execute(&context) {
        Ok(Cel::Bool(holds)) => Ok(holds),
        Ok(other) => Err(format!("not a truth value: {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Whole numbers are `int`, as the server has them: by itself the crate would take `uint`.
fn cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().unwrap_or_default().into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(cel).collect::<Vec<_>>().into(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), cel(value)))
            .collect::<HashMap<String, Cel>>()
            .into(),
    }
}
