//! What errors of the API say to people: what is wrong, and what to do.

use anyhow::{Error, anyhow};
use kube::core::Status;

/// Where requests go.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// What told us: a context of a file.
    pub(super) of: String,
    /// The address.
    pub(super) server: String,
}

/// An error of the API, for people.
pub(super) fn explain(error: kube::Error, place: &Place) -> Error {
    match error {
        kube::Error::Api(status) => anyhow!(of_status(&status, place)),
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => {
            anyhow!(
                "the API server at {} does not answer: {}\nIs the cluster there, and is it the one that is meant ({})?",
                place.server,
                innermost(&error),
                place.of
            )
        }
        kube::Error::Auth(_) => anyhow!("cannot sign in with {}: {}", place.of, innermost(&error)),
        kube::Error::SerdeError(error) => anyhow!(
            "the API server at {} answers what this program does not understand: {error}\n\
             Is a newer version of Tapedeck installed there? `tapedeck cluster status` says which",
            place.server
        ),
        other => Error::new(other),
    }
}

/// The cause that says most: those around it name layers of the client.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn of_status(status: &Status, place: &Place) -> String {
    let message = status.message.trim();
    match status.code {
        401 => format!(
            "the API server at {} does not know who you are: {message}\nSign in again, or choose another user ({})",
            place.server, place.of
        ),
        403 => match Missing::read(message) {
            Some(missing) => format!("{message}\n{missing}"),
            None => message.to_owned(),
        },
        404 if is_unknown_kind(message) => format!(
            "the API server at {} does not know Tapedeck's resources ({}/{}): \
             `tapedeck cluster install` installs them; where a newer Tapedeck is installed, use its program",
            place.server,
            tapedeck_cluster::GROUP,
            tapedeck_cluster::VERSION
        ),
        409 if status.reason == "Conflict" && message.contains("conflict with") => format!(
            "{message}\nSomebody else has set these fields: --force-conflicts takes them over"
        ),
        429 | 503 | 504 => format!(
            "the API server at {} is overloaded or starting: {message}; try again later",
            place.server
        ),
        _ if message.is_empty() => {
            format!("the API server at {} answers {}", place.server, status.code)
        }
        _ => message.to_owned(),
    }
}

/// What the API server says of paths that it does not have; of objects it says which.
fn is_unknown_kind(message: &str) -> bool {
    message.contains("could not find the requested resource") || message.contains("page not found")
}

/// The right that is missing, as the API server names it.
#[derive(Debug, Eq, PartialEq)]
struct Missing<'a> {
    verb: &'a str,
    resource: &'a str,
    group: &'a str,
    name: Option<&'a str>,
    namespace: Option<&'a str>,
}

impl<'a> Missing<'a> {
    /// Reads `RESOURCE "NAME" is forbidden: User "U" cannot VERB resource "R" in API group "G" in the namespace "N"`.
    fn read(message: &'a str) -> Option<Self> {
        let (before, rest) = message.split_once(" cannot ")?;
        let (verb, rest) = rest.split_once(" resource \"")?;
        let (resource, rest) = rest.split_once("\" in API group \"")?;
        let (group, rest) = rest.split_once('"')?;
        let namespace = rest
            .split_once("in the namespace \"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .map(|(namespace, _)| namespace);
        let name = before
            .split_once(" is forbidden")
            .and_then(|(what, _)| what.split('"').nth(1));
        Some(Self {
            verb,
            resource,
            group,
            name,
            namespace,
        })
    }
}

impl std::fmt::Display for Missing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            verb,
            resource,
            group,
            name,
            namespace,
        } = self;
        match namespace {
            Some(namespace) => writeln!(
                f,
                "A Role in the namespace {namespace} with this rule allows it:"
            )?,
            None => writeln!(
                f,
                "A ClusterRole with this rule, bound by a ClusterRoleBinding, allows it:"
            )?,
        }
        writeln!(f, "  - apiGroups: [{group:?}]")?;
        writeln!(f, "    resources: [{resource}]")?;
        if let Some(name) = name.filter(|_| *resource == "services/proxy") {
            writeln!(f, "    resourceNames: [{name:?}]")?;
        }
        write!(f, "    verbs: [{verb}]")?;
        let role = match (*group, *resource, *verb) {
            ("tapedeck.dev", _, "get" | "list" | "watch") => "ClusterRole tapedeck-viewer",
            ("tapedeck.dev", ..) => "ClusterRole tapedeck-operator",
            ("", "services/proxy" | "pods" | "pods/log", _) | ("apps", ..) => {
                "Role tapedeck-admin of Tapedeck's namespace"
            }
            _ => return Ok(()),
        };
        write!(f, "\nThe {role} has it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_right_is_named() {
        let said = "recordings.tapedeck.dev is forbidden: User \"jane\" cannot list resource \"recordings\" in API group \
                    \"tapedeck.dev\" in the namespace \"shop\"";
        let missing = Missing::read(said).unwrap().to_string();
        assert_eq!(
            missing,
            "A Role in the namespace shop with this rule allows it:\n  \
             - apiGroups: [\"tapedeck.dev\"]\n    resources: [recordings]\n    verbs: [list]\n\
             The ClusterRole tapedeck-viewer has it"
        );
        let said = "services \"https:tapedeck-controller:https\" is forbidden: User \"jane\" cannot get resource \"services/proxy\" in \
                    API group \"\" in the namespace \"tapedeck-system\"";
        let missing = Missing::read(said).unwrap().to_string();
        assert!(
            missing.contains("resourceNames: [\"https:tapedeck-controller:https\"]"),
            "{missing}"
        );
        assert!(missing.contains("Role tapedeck-admin"), "{missing}");
        let said = "nodereports.tapedeck.dev is forbidden: User \"jane\" cannot list resource \"nodereports\" in API group \
                    \"tapedeck.dev\" at the cluster scope";
        let missing = Missing::read(said).unwrap();
        assert_eq!(missing.namespace, None);
        assert!(missing.to_string().starts_with("A ClusterRole"));
        assert_eq!(Missing::read("admission webhook denied the request"), None);
    }
}
