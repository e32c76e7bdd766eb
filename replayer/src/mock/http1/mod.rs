//! The HTTP/1 server: requests out of bytes ([`request`]), answers on a connection ([`session`]),
//! and answers that go wrong on purpose ([`faulty`]).

mod faulty;
mod request;
mod session;
mod upgraded;

pub(crate) use request::{PREFACE, RequestReader};
pub(crate) use session::Session;
