//! From a path and a method to what is asked.

use std::collections::BTreeMap;

use http::Method;

/// What a request asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    pub(crate) verb: &'static str,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// Behind `proxy/`.
    pub(crate) rest: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) user: User,
}

/// Who asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

impl User {
    /// From a bearer token. A token is the name of its user.
    pub(crate) fn of_token(token: Option<&str>) -> Self {
        let Some(token) = token else {
            return Self {
                name: "system:anonymous".to_owned(),
                groups: vec!["system:unauthenticated".to_owned()],
            };
        };
        let name = token;
        let mut groups = vec!["system:authenticated".to_owned()];
        if name == "admin" {
            groups.push("system:masters".to_owned());
        }
        if let Some(account) = name.strip_prefix("system:serviceaccount:") {
            groups.push("system:serviceaccounts".to_owned());
            if let Some((namespace, _)) = account.split_once(':') {
                groups.push(format!("system:serviceaccounts:{namespace}"));
            }
        }
        Self {
            name: name.to_owned(),
            groups,
        }
    }
}

impl Ask {
    /// Of a path under `/api` or `/apis` that names a resource.
    pub(crate) fn parse(method: &Method, path: &str, query: &str) -> Option<Self> {
        let query: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        let mut steps = path.trim_matches('/').splitn(4, '/');
        let (group, version, rest) = match steps.next()? {
            "api" => {
                let version = steps.next()?;
                let mut rest = steps.next()?.to_owned();
                if let Some(more) = steps.next() {
                    rest.push('/');
                    rest.push_str(more);
                }
                (String::new(), version, rest)
            }
            "apis" => (
                steps.next()?.to_owned(),
                steps.next()?,
                steps.next()?.to_owned(),
            ),
            _ => return None,
        };
        let decoded: Vec<String> = rest.split('/').map(decode).collect();
        let mut steps = decoded.iter().map(String::as_str);
        let mut ask = Self {
            group,
            version: version.to_owned(),
            query,
            ..Self::default()
        };
        let first = steps.next()?;
        let (plural, name) = match (first, decoded.len()) {
            ("namespaces", 3..) if !["status", "finalize"].contains(&decoded[2].as_str()) => {
                ask.namespace = steps.next().map(str::to_owned);
                (steps.next()?, steps.next())
            }
            (plural, _) => (plural, steps.next()),
        };
        plural.clone_into(&mut ask.plural);
        name.unwrap_or_default().clone_into(&mut ask.name);
        steps
            .next()
            .unwrap_or_default()
            .clone_into(&mut ask.subresource);
        ask.rest = steps.collect::<Vec<_>>().join("/");
        let watches = ["true", "1", ""].map(Some).contains(&ask.value("watch"));
        ask.verb = match (method.as_str(), ask.name.is_empty()) {
            ("GET" | "HEAD", true) if watches => "watch",
            ("GET" | "HEAD", true) => "list",
            ("GET" | "HEAD", false) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", true) => "deletecollection",
            ("DELETE", false) => "delete",
            _ => return None,
        };
        Some(ask)
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.value(name)
            .is_some_and(|value| value == "true" || value == "1")
    }
}

/// `%2F` and its like, in a step of a path.
fn decode(step: &str) -> String {
    let plain = step.replace('+', "%2B");
    form_urlencoded::parse(plain.as_bytes())
        .next()
        .map(|(name, _)| name.into_owned())
        .unwrap_or_default()
}
