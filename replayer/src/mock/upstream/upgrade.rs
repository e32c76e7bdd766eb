//! Conversations with an upstream: requests that become another protocol (RFC 9110 section 7.8).

use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::on;
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;

use super::{Outgoing, Passed, Refused, Relay, end_to_end, root};

/// An upstream that has changed the protocol.
#[derive(Debug)]
pub(crate) struct Upgraded {
    /// What its answer says, with the fields that say so.
    pub(crate) fields: HeaderMap,
    pub(crate) io: TokioIo<hyper::upgrade::Upgraded>,
    _place: OwnedSemaphorePermit,
}

/// What an upstream says to a request to change the protocol.
#[derive(Debug)]
pub(crate) enum Reached {
    Upgraded(Box<Upgraded>),
    /// An answer as any other.
    Answered(Box<Passed>),
}

impl Relay {
    /// Asks to go on as WebSocket.
    pub(crate) async fn upgrade(&self, outgoing: Outgoing) -> Result<Reached, Refused> {
        let Outgoing {
            mut request, to, ..
        } = outgoing;
        let place = self.place()?;
        say_upgrade(request.headers_mut());
        let mut response = self.ask(&self.http1, request, &to).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let passed = self.passed(response, false, place);
            return Ok(Reached::Answered(Box::new(passed)));
        }
        let io = on(&mut response).await.map_err(|error| {
            let why = format!("the upstream {to} gave no answer: {}", root(&error));
            Refused::With(StatusCode::BAD_GATEWAY, why)
        })?;
        let mut fields = end_to_end(response.into_parts().0.headers);
        say_upgrade(&mut fields);
        Ok(Reached::Upgraded(Box::new(Upgraded {
            fields,
            io: TokioIo::new(io),
            _place: place,
        })))
    }
}

/// These belong to a connection, and are said anew on each.
fn say_upgrade(fields: &mut HeaderMap) {
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}
