//! Where requests come from.

use tapedeck_archive::Target;
use tapedeck_filter::Filter;
use tapedeck_model::Missing;

use crate::player::outcome::{Cause, NeverSent};
use crate::player::request::{Fields, RecordedRequest};
use crate::player::schedule::{Candidate, LeftOut};

/// Recorded exchanges, read by several workers at once.
pub(crate) trait Source: Send + Sync {
    /// What one worker needs to read with: decompressed blocks, kept between reads.
    type Scratch: Default;

    /// Every exchange, in any order.
    fn candidates(&self) -> impl Iterator<Item = Candidate<'_>>;

    /// How many more exchanges there are of which nothing can be read.
    fn unreadable(&self) -> u64;

    /// The status of the recorded answer.
    fn recorded_status(&self, id: u64) -> Option<u16>;

    /// Whether a filter chooses it; `None`: it cannot be read.
    fn matches(&self, id: u64, filter: &Filter, scratch: &mut Self::Scratch) -> Option<bool>;

    /// Lends the target and the fields of a request to `f`, without reading its body. `None`: it
    /// cannot be read.
    fn with_head<T>(
        &self,
        id: u64,
        scratch: &mut Self::Scratch,
        f: impl FnOnce(&[u8], &Fields<'_>) -> T,
    ) -> Option<T>;

    /// Lends a request to `f`.
    fn with_request<T>(
        &self,
        id: u64,
        scratch: &mut Self::Scratch,
        f: impl FnOnce(&RecordedRequest<'_>) -> T,
    ) -> Result<T, ReadFailure>;
}

/// A request that could not be read back.
#[derive(Debug)]
pub(crate) struct ReadFailure {
    pub(crate) reason: NeverSent,
    pub(crate) cause: Cause,
}

/// What decides whether an exchange is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) method: Option<&'a [u8]>,
    pub(crate) target: Option<Target<'a>>,
    pub(crate) request_missing: Missing,
    pub(crate) tunnel: bool,
    pub(crate) pushed: bool,
}

impl Facts<'_> {
    /// Why the exchange is no request to send; `None`: it is one.
    pub(crate) fn left_out(&self) -> Option<LeftOut> {
        if self.pushed {
            Some(LeftOut::Pushed)
        } else if self.request_missing.contains(Missing::ABSENT) {
            Some(LeftOut::NoRequest)
        } else if self.tunnel || self.method == Some(b"CONNECT") {
            Some(LeftOut::Tunnel)
        } else if !self.request_missing.is_empty() || self.method.is_none() || self.target.is_none()
        {
            Some(LeftOut::Incomplete)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_requests_of_clients_are_sent() {
        let whole = Facts {
            method: Some(b"GET"),
            target: Some(Target::whole(b"/")),
            request_missing: Missing::NONE,
            tunnel: false,
            pushed: false,
        };
        assert_eq!(whole.left_out(), None);
        for (facts, reason) in [
            (
                Facts {
                    pushed: true,
                    ..whole
                },
                LeftOut::Pushed,
            ),
            (
                Facts {
                    tunnel: true,
                    ..whole
                },
                LeftOut::Tunnel,
            ),
            (
                Facts {
                    method: Some(b"CONNECT"),
                    ..whole
                },
                LeftOut::Tunnel,
            ),
            (
                Facts {
                    method: None,
                    ..whole
                },
                LeftOut::Incomplete,
            ),
            (
                Facts {
                    target: None,
                    ..whole
                },
                LeftOut::Incomplete,
            ),
            (
                Facts {
                    request_missing: Missing::UNKNOWN_FIELDS,
                    ..whole
                },
                LeftOut::Incomplete,
            ),
            (
                Facts {
                    request_missing: Missing::ABSENT,
                    method: None,
                    ..whole
                },
                LeftOut::NoRequest,
            ),
        ] {
            assert_eq!(facts.left_out(), Some(reason));
        }
    }
}
