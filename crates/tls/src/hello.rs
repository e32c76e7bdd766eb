//! ClientHello, ServerHello and EncryptedExtensions, as far as they matter to a listener
//! (RFC 5246 section 7.4.1, RFC 8446 section 4.1).

/// The ServerHello random that makes it a HelloRetryRequest: SHA-256 of that name.
const HELLO_RETRY_REQUEST: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

mod extension {
    pub(super) const SERVER_NAME: u16 = 0;
    pub(super) const ALPN: u16 = 16;
    pub(super) const ENCRYPT_THEN_MAC: u16 = 22;
    pub(super) const EARLY_DATA: u16 = 42;
    pub(super) const SUPPORTED_VERSIONS: u16 = 43;
}

/// What a ClientHello says.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct ClientHello {
    pub(crate) random: [u8; 32],
    pub(crate) server_name: Option<Vec<u8>>,
    pub(crate) early_data: bool,
}

/// What a ServerHello says.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct ServerHello {
    pub(crate) random: [u8; 32],
    pub(crate) version: u16,
    pub(crate) suite: u16,
    pub(crate) compressed: bool,
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) encrypt_then_mac: bool,
    pub(crate) retry: bool,
}

/// What EncryptedExtensions say.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct EncryptedExtensions {
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) early_data: bool,
}

/// Walks over bytes; `None` at their end.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn vec8(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        self.take(len.into())
    }

    fn vec16(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(len.into())
    }

    /// The extensions, which may be left out altogether in TLS 1.2.
    fn extensions(&mut self) -> Option<Vec<(u16, &'a [u8])>> {
        let mut extensions = Vec::new();
        if !self.0.is_empty() {
            let mut list = Self(self.vec16()?);
            while !list.0.is_empty() {
                extensions.push((list.u16()?, list.vec16()?));
            }
        }
        Some(extensions)
    }
}

impl ClientHello {
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(body);
        let _version = cursor.u16()?;
        let random = cursor.array()?;
        let _session = cursor.vec8()?;
        let _suites = cursor.vec16()?;
        let _compression = cursor.vec8()?;
        let extensions = cursor.extensions()?;
        Some(Self {
            random,
            server_name: find(&extensions, extension::SERVER_NAME).and_then(server_name),
            early_data: find(&extensions, extension::EARLY_DATA).is_some(),
        })
    }
}

impl ServerHello {
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(body);
        let legacy_version = cursor.u16()?;
        let random = cursor.array()?;
        let _session = cursor.vec8()?;
        let suite = cursor.u16()?;
        let compressed = cursor.u8()? != 0;
        let extensions = cursor.extensions()?;
        let version = find(&extensions, extension::SUPPORTED_VERSIONS)
            .and_then(|data| Cursor(data).u16())
            .unwrap_or(legacy_version);
        Some(Self {
            random,
            version,
            suite,
            compressed,
            alpn: find(&extensions, extension::ALPN).and_then(alpn),
            encrypt_then_mac: find(&extensions, extension::ENCRYPT_THEN_MAC).is_some(),
            retry: random == HELLO_RETRY_REQUEST,
        })
    }
}

impl EncryptedExtensions {
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let extensions = Cursor(body).extensions()?;
        Some(Self {
            alpn: find(&extensions, extension::ALPN).and_then(alpn),
            early_data: find(&extensions, extension::EARLY_DATA).is_some(),
        })
    }
}

fn find<'a>(extensions: &[(u16, &'a [u8])], wanted: u16) -> Option<&'a [u8]> {
    extensions
        .iter()
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, data)| *data)
}

/// The longest name that DNS has (RFC 1035 section 2.3.4). A longer one names no server, and would be
/// kept for as long as its connection.
const LONGEST_NAME: usize = 255;

/// The first host name of a server name list (RFC 6066 section 3).
fn server_name(data: &[u8]) -> Option<Vec<u8>> {
    let mut list = Cursor(Cursor(data).vec16()?);
    match (list.u8()?, list.vec16()?) {
        (0, name) if name.len() <= LONGEST_NAME => Some(name.to_vec()),
        _ => None,
    }
}

/// The one protocol that a server chose (RFC 7301 section 3.1).
fn alpn(data: &[u8]) -> Option<Vec<u8>> {
    let mut list = Cursor(Cursor(data).vec16()?);
    list.vec8().map(<[u8]>::to_vec)
}
