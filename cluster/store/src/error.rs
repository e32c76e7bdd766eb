//! Why a transfer failed.

use std::io;
use std::path::PathBuf;

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store has no such object.
    #[error("the store {store} has no {key}")]
    Missing {
        /// The store.
        store: String,
        /// The key.
        key: String,
    },
    /// The store has no room.
    #[error("the store {store} is full: {key} was not stored")]
    Full {
        /// The store.
        store: String,
        /// The key.
        key: String,
    },
    /// The store refuses this program.
    #[error(
        "the store {store} refuses to {operation} {key}: its credentials or rights do not suffice"
    )]
    Denied {
        /// The store.
        store: String,
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key: String,
        /// What it said.
        source: Box<object_store::Error>,
    },
    /// The store gives back other bytes than it was given.
    #[error(
        "the store {store} gives back {key} with {found} bytes of {expected}, or with other ones: \
         it was damaged there"
    )]
    Damaged {
        /// The store.
        store: String,
        /// The key.
        key: String,
        /// How many bytes there should be.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// The file was written to while it was stored.
    #[error("{} changed while it was stored", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A key that no object can have.
    #[error("{key:?} is no key of a store")]
    Key {
        /// The key.
        key: String,
    },
    /// A file of this machine cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Anything else, after all repetitions.
    #[error("the store {store} cannot {operation} {key}")]
    Failed {
        /// The store.
        store: String,
        /// What was asked for.
        operation: &'static str,
        /// The key.
        key: String,
        /// Why.
        source: Box<object_store::Error>,
    },
}

impl StoreError {
    pub(crate) fn of(
        store: &str,
        operation: &'static str,
        key: &str,
        source: object_store::Error,
    ) -> Self {
        let (store, key) = (store.to_owned(), key.to_owned());
        match source {
            object_store::Error::NotFound { .. } => Self::Missing { store, key },
            source if is_denied(&source) => Self::Denied {
                store,
                operation,
                key,
                source: Box::new(source),
            },
            source if lacks_room(&source) => Self::Full { store, key },
            source => Self::Failed {
                store,
                operation,
                key,
                source: Box::new(source),
            },
        }
    }

    pub(crate) fn file(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// Whether it may go better later, with nobody doing anything but for making room.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Failed { .. } => true,
            Self::File { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::Missing { .. }
            | Self::Denied { .. }
            | Self::Damaged { .. }
            | Self::Changed { .. }
            | Self::Key { .. } => false,
        }
    }
}

/// `object_store` sorts what a store answers to a request for an object, and not what it answers to one for a list or
/// for a batch: there the status is in the text of a cause, and nowhere else.
fn is_denied(error: &object_store::Error) -> bool {
    if matches!(
        error,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }
    ) {
        return true;
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if ["401 Unauthorized", "403 Forbidden"]
            .iter()
            .any(|status| text.contains(&format!("non-2xx status code: {status}")))
        {
            return true;
        }
        cause = error.source();
    }
    false
}

fn lacks_room(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let kind = error.kind();
            if kind == io::ErrorKind::StorageFull || kind == io::ErrorKind::QuotaExceeded {
                return true;
            }
        }
        cause = error.source();
    }
    false
}
