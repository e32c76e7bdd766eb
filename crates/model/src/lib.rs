//! The words of Tapedeck as types: flows, messages, exchanges, anomalies, the loss ledger.
//!
//! Every other crate speaks in these types. There is no protocol logic here, no I/O, no clock and
//! no serialisation: the archive and the edges own their wire structs and convert.
//!
//! Reading order: [`time`], [`flow`], [`segment`] (what packets become), [`message`] and
//! [`event`] (what protocol readers say), [`exchange`] (what is archived), and beside them
//! [`missing`], [`anomaly`] and [`ledger`]: how the wire's losses and oddities are told.

#![forbid(unsafe_code)]

pub mod anomaly;
pub mod event;
pub mod exchange;
pub mod flow;
pub mod grpc;
pub mod ledger;
pub mod message;
pub mod missing;
pub mod segment;
pub mod session;
pub mod template;
pub mod time;
pub mod tls;
pub mod workload;

pub use anomaly::{Anomalies, Anomaly};
pub use event::{End, Event, EventSink, Input, StreamKey};
pub use exchange::{
    BodyPart, Connection, ConnectionId, Exchange, Interim, Message, Origin, Workloads,
};
pub use flow::{Direction, Endpoint, FlowKey, PerDirection, Scope, Side};
pub use grpc::{GRPC_STATUS_NAMES, is_grpc};
pub use ledger::Ledger;
pub use message::{Field, Head, Protocol, Role, Span, StartLine};
pub use missing::{Gap, GapCause, Missing};
pub use segment::{Segment, SeqNum, TcpFlags};
pub use session::session_of;
pub use template::{is_id, path_template};
pub use time::Timestamp;
pub use tls::{Tls, TlsVersion, Unread, UnreadConnection, alert_name};
pub use workload::Workload;
