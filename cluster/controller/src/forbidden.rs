//! What is missing when the API server says no.

/// From the server's message to the rule that would have allowed the request, for people.
#[must_use]
pub fn missing_rule(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("User \"")?;
    let (user, rest) = rest.split_once("\" cannot ")?;
    let (verb, rest) = rest.split_once(" resource \"")?;
    let (resource, rest) = rest.split_once("\" in API group \"")?;
    let (group, rest) = rest.split_once('"')?;
    let place = rest
        .split_once("in the namespace \"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map_or_else(
            || "a ClusterRole".to_owned(),
            |(namespace, _)| format!("a Role in {namespace}, or a ClusterRole"),
        );
    Some(format!(
        "{user} lacks the rule {{apiGroups: [{group:?}], resources: [{resource:?}], verbs: [{verb:?}]}} in {place}"
    ))
}

/// What an error of the API means, with the missing rule where there is one.
pub(crate) fn explained(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            missing_rule(&status.message).unwrap_or_else(|| status.message.clone())
        }
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => {
            let mut text = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        }
    }
}

/// The code of the server's answer; 0 when there was none.
pub(crate) fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_read_from_what_the_server_says() {
        let said = "snapshots.tapedeck.dev \"s\" is forbidden: User \"system:serviceaccount:a:b\" cannot patch resource \"snapshots/status\" in API group \"tapedeck.dev\" in the namespace \"shop\"";
        assert_eq!(
            missing_rule(said).unwrap(),
            "system:serviceaccount:a:b lacks the rule {apiGroups: [\"tapedeck.dev\"], resources: [\"snapshots/status\"], verbs: [\"patch\"]} in a Role in shop, or a ClusterRole"
        );
        let said = "nodereports.tapedeck.dev is forbidden: User \"u\" cannot list resource \"nodereports\" in API group \"tapedeck.dev\" at the cluster scope";
        assert!(missing_rule(said).unwrap().ends_with("in a ClusterRole"));
        assert_eq!(missing_rule("pods \"a\" is forbidden: no room"), None);
    }
}
