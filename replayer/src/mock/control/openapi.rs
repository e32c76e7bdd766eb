//! The control port as an OpenAPI 3.1 document, made from its routes.

use serde_json::{Map, Value, json};

use super::routes::Route;

pub(super) fn document(routes: &[Route]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let path = paths
            .entry(route.path.to_owned())
            .or_insert_with(|| json!({}));
        path[route.method.to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Control port of tapedeck mock",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": {
            "Problem": {
                "type": "object",
                "required": ["error"],
                "properties": { "error": { "type": "string" } },
            },
        } },
    })
}

fn operation(route: &Route) -> Value {
    let parameters: Vec<_> = route
        .query
        .iter()
        .map(|(name, what)| {
            json!({
                "name": name,
                "in": "query",
                "description": what,
                "schema": { "type": "string" },
            })
        })
        .collect();
    let responses: Map<String, Value> = route
        .gives
        .iter()
        .map(|(status, what)| (status.to_string(), answer(route, *status, what)))
        .collect();
    let id = format!(
        "{}{}",
        route.method.to_ascii_lowercase(),
        route.path.replace(['/', '.'], "_")
    );
    let mut operation = json!({
        "operationId": id,
        "summary": route.summary,
        "responses": responses,
    });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(takes) = route.takes {
        operation["requestBody"] = json!({
            "required": true,
            "description": takes,
            "content": { "application/yaml": {}, "application/json": {} },
        });
    }
    operation
}

fn answer(route: &Route, status: u16, what: &str) -> Value {
    let content = match (route.path, status) {
        ("/metrics", 200) => json!({ "application/openmetrics-text": {} }),
        (_, 400..) => json!({
            "application/json": { "schema": { "$ref": "#/components/schemas/Problem" } },
        }),
        _ => json!({ "application/json": { "schema": { "type": "object" } } }),
    };
    json!({ "description": what, "content": content })
}
