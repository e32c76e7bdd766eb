//! What can be made to go wrong, and the account of what was asked.

use std::time::Duration;

use crate::route::Ask;

/// A request that was made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// Who made it: `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// As authorization has it: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'static str,
    /// The group of the resource; empty for that of pods.
    pub group: String,
    /// `recordings`; empty for what is no resource.
    pub resource: String,
    /// `status`, `log`, `proxy`, or empty.
    pub subresource: String,
    /// Of the object, where there is one.
    pub namespace: String,
    /// Of the object, where there is one.
    pub name: String,
    /// The path, with the query.
    pub path: String,
    /// The answer: 0 while there is none, or when the connection was cut.
    pub code: u16,
    /// Since the start of the server.
    pub at: Duration,
}

/// Which requests a fault meets. What is unset restricts nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct When {
    /// The verb.
    pub verb: Option<&'static str>,
    /// The resource, in the plural.
    pub resource: Option<&'static str>,
    /// The sub-resource; empty for the object itself.
    pub subresource: Option<&'static str>,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// 429, with `Retry-After` of so many seconds.
    Throttled(u64),
    /// 500, with the reason `InternalError`.
    Broken,
    /// 503.
    Unavailable,
    /// 403, as if a rule were missing.
    Forbidden,
    /// 409: somebody else was faster.
    Conflict,
    /// 410.
    Expired,
    /// The connection ends without an answer.
    Cut,
    /// What is asked for is done, and the connection ends without an answer.
    DoneAndCut,
    /// The answer takes so long.
    Slow(Duration),
}

#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) when: When,
    pub(crate) fault: Fault,
    /// For how many requests it is still there.
    pub(crate) left: usize,
}

impl When {
    pub(crate) fn meets(&self, ask: &Ask) -> bool {
        self.verb.is_none_or(|verb| verb == ask.verb)
            && self.resource.is_none_or(|resource| resource == ask.plural)
            && self
                .subresource
                .is_none_or(|subresource| subresource == ask.subresource)
    }
}
