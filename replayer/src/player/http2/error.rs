//! Why a request has no answer.

use std::fmt;
use std::io;

/// An error code (RFC 9113 section 7).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Code(pub(crate) u32);

impl Code {
    pub(crate) const NO_ERROR: Self = Self(0x0);
    pub(crate) const PROTOCOL_ERROR: Self = Self(0x1);
    pub(crate) const FLOW_CONTROL_ERROR: Self = Self(0x3);
    pub(crate) const FRAME_SIZE_ERROR: Self = Self(0x6);
    pub(crate) const REFUSED_STREAM: Self = Self(0x7);
    pub(crate) const CANCEL: Self = Self(0x8);
    pub(crate) const COMPRESSION_ERROR: Self = Self(0x9);
    pub(crate) const ENHANCE_YOUR_CALM: Self = Self(0xb);
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "error {}", self.0),
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Http2Error {
    /// RST_STREAM.
    #[error("the target reset the stream: {0}")]
    Reset(Code),
    /// GOAWAY, and the request is behind the last that the target looks at (RFC 9113 section 6.8).
    #[error("the target closes the connection without looking at the request: {0}")]
    NotProcessed(Code),
    /// The connection ended; with the code of a GOAWAY, where there was one.
    #[error("the target closed the connection before its answer was whole{}", behind(*.0))]
    Closed(Option<Code>),
    /// The socket failed.
    #[error("{}", io_error(*.0, *.1))]
    Io(Option<i32>, io::ErrorKind),
    /// The target broke the rules, of this stream or of the connection.
    #[error("{0} ({1})")]
    Violation(&'static str, Code),
}

impl Http2Error {
    pub(crate) fn io(error: &io::Error) -> Self {
        Self::Io(error.raw_os_error(), error.kind())
    }

    /// Whether the target says that it did not look at the request, so that sending it again is safe
    /// (RFC 9113 section 8.7).
    pub(crate) fn is_unprocessed(self) -> bool {
        matches!(
            self,
            Self::Reset(Code::REFUSED_STREAM) | Self::NotProcessed(Code::NO_ERROR)
        )
    }
}

/// The error of a socket, once more: it is told to all streams of a connection.
pub(crate) fn io_error(code: Option<i32>, kind: io::ErrorKind) -> io::Error {
    code.map_or_else(|| io::Error::from(kind), io::Error::from_raw_os_error)
}

fn behind(code: Option<Code>) -> String {
    code.map_or_else(String::new, |code| format!(", behind GOAWAY: {code}"))
}
