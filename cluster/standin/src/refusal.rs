//! Answers that say no, in the words of the real server: clients read them.

use serde_json::{Value, json};

use crate::resources::Resource;

/// Why a request was refused: a `Status`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The status code of HTTP.
    pub code: u16,
    /// `NotFound`, `Conflict`, `Invalid`.
    pub reason: &'static str,
    /// In words.
    pub message: String,
    /// After how many seconds to ask again.
    pub retry_after: Option<u64>,
    pub(crate) details: Option<Box<Value>>,
}

impl Refusal {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            retry_after: None,
            details: None,
        }
    }

    fn about(resource: &Resource, name: &str, code: u16, reason: &'static str, what: &str) -> Self {
        let message = format!("{} {name:?} {what}", resource.qualified());
        Self {
            details: Some(Box::new(json!({
                "name": name, "group": *resource.group, "kind": *resource.plural,
            }))),
            ..Self::new(code, reason, message)
        }
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        Self::about(resource, name, 404, "NotFound", "not found")
    }

    pub(crate) fn exists(resource: &Resource, name: &str) -> Self {
        Self::about(resource, name, 409, "AlreadyExists", "already exists")
    }

    pub(crate) fn no_such_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn modified(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            resource.qualified()
        );
        Self {
            message,
            ..Self::about(resource, name, 409, "Conflict", "")
        }
    }

    pub(crate) fn invalid(resource: &Resource, name: &str, causes: &[(String, String)]) -> Self {
        let listed: Vec<String> = causes
            .iter()
            .map(|(field, message)| format!("{field}: {message}"))
            .collect();
        let listed = match listed.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let kind = if resource.group.is_empty() {
            resource.kind.to_string()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let causes: Vec<Value> = causes
            .iter()
            .map(|(field, message)| {
                json!({ "reason": "FieldValueInvalid", "message": message, "field": field })
            })
            .collect();
        Self {
            details: Some(Box::new(json!({
                "name": name, "group": *resource.group, "kind": *resource.kind, "causes": causes,
            }))),
            ..Self::new(
                422,
                "Invalid",
                format!("{kind} {name:?} is invalid: {listed}"),
            )
        }
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        let mut details = self.details.clone();
        if let Some(seconds) = self.retry_after {
            let details = details.get_or_insert_with(|| Box::new(json!({})));
            details["retryAfterSeconds"] = seconds.into();
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(details) = details {
            status["details"] = *details;
        }
        status
    }
}
