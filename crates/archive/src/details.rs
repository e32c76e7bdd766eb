//! What is known of a connection beyond its addresses: TLS, and whose it was. As rkyv archives it.

use std::sync::Arc;

use rkyv::{Archive, Deserialize, Serialize};
use tapedeck_model::{Tls, TlsVersion, Workload};

/// [`Tls`] in the file.
#[derive(Archive, Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[rkyv(derive(Debug))]
pub(crate) struct StoredTls {
    /// As the handshake writes it: 0x0303 is TLS 1.2. Zero: unknown.
    version: u16,
    suite: Option<u16>,
    server_name: Option<Vec<u8>>,
    alpn: Option<Vec<u8>>,
}

/// [`Workload`] in the file.
#[derive(Archive, Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[rkyv(derive(Debug))]
pub(crate) struct StoredWorkload {
    namespace: Option<String>,
    pod: Option<String>,
    container: Option<String>,
    owner: Option<String>,
    process: Option<String>,
    pid: Option<u32>,
    cgroup: Option<String>,
}

impl From<&Tls> for StoredTls {
    fn from(tls: &Tls) -> Self {
        let Tls {
            version,
            suite,
            server_name,
            alpn,
        } = tls;
        Self {
            version: match version {
                Some(TlsVersion::Tls12) => TLS_1_2,
                Some(TlsVersion::Tls13) => TLS_1_3,
                None => 0,
            },
            suite: *suite,
            server_name: server_name.clone(),
            alpn: alpn.clone(),
        }
    }
}

impl From<StoredTls> for Tls {
    fn from(stored: StoredTls) -> Self {
        let StoredTls {
            version,
            suite,
            server_name,
            alpn,
        } = stored;
        Self {
            version: match version {
                TLS_1_2 => Some(TlsVersion::Tls12),
                TLS_1_3 => Some(TlsVersion::Tls13),
                _ => None,
            },
            suite,
            server_name,
            alpn,
        }
    }
}

const TLS_1_2: u16 = 0x0303;
const TLS_1_3: u16 = 0x0304;

/// Both ways between two structs with the same fields. Each is taken apart by name, so that a field
/// that one of them lacks does not compile.
macro_rules! the_same_fields {
    ($model:ident, $stored:ident, $fields:tt) => {
        impl From<&$model> for $stored {
            fn from(model: &$model) -> Self {
                let $model $fields = model.clone();
                Self $fields
            }
        }

        impl From<$stored> for $model {
            fn from(stored: $stored) -> Self {
                let $stored $fields = stored;
                Self $fields
            }
        }
    };
}

the_same_fields!(
    Workload,
    StoredWorkload,
    { namespace, pod, container, owner, process, pid, cgroup }
);

/// What is stored of something that is shared, where there is any.
pub(crate) fn stored<M, S: for<'m> From<&'m M>>(value: Option<&Arc<M>>) -> Option<S> {
    value.map(|value| S::from(value))
}

/// The way back.
pub(crate) fn shared<S, M: From<S>>(stored: Option<S>) -> Option<Arc<M>> {
    stored.map(|stored| Arc::new(stored.into()))
}
