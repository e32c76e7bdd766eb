//! What a page knows of connections beyond their addresses.

use tapedeck_model::TlsVersion;

use super::id;
use super::view::Page;

/// What a TLS handshake told, read in place from the index.
#[derive(Clone, Copy, Debug)]
pub struct TlsView<'a> {
    pub(super) page: Page<'a>,
    pub(super) number: usize,
}

impl<'a> TlsView<'a> {
    /// The version.
    #[must_use]
    pub fn version(&self) -> Option<TlsVersion> {
        match self.page.number(id::TLS_VERSION, self.number)? {
            0x0303 => Some(TlsVersion::Tls12),
            0x0304 => Some(TlsVersion::Tls13),
            _ => None,
        }
    }

    /// The cipher suite, by its number in IANA's registry.
    #[must_use]
    pub fn suite(&self) -> Option<u16> {
        let suite = self.page.number(id::TLS_SUITE, self.number)?;
        u16::try_from(suite).ok()
    }

    /// The name that the client asked for.
    #[must_use]
    pub fn server_name(&self) -> Option<&'a [u8]> {
        let number = self.page.number(id::TLS_SERVER_NAME, self.number)?;
        self.page.string(number)
    }

    /// The protocol that the server chose.
    #[must_use]
    pub fn alpn(&self) -> Option<&'a [u8]> {
        let number = self.page.number(id::TLS_ALPN, self.number)?;
        self.page.string(number)
    }
}

/// What runs at one end of a connection, read in place from the index.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadView<'a> {
    pub(super) page: Page<'a>,
    pub(super) number: usize,
}

impl<'a> WorkloadView<'a> {
    /// Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> Option<&'a [u8]> {
        self.text(id::WORKLOAD_NAMESPACE)
    }

    /// Kubernetes pod.
    #[must_use]
    pub fn pod(&self) -> Option<&'a [u8]> {
        self.text(id::WORKLOAD_POD)
    }

    /// Container.
    #[must_use]
    pub fn container(&self) -> Option<&'a [u8]> {
        self.text(id::WORKLOAD_CONTAINER)
    }

    /// What owns the pod, as `kind/name`.
    #[must_use]
    pub fn owner(&self) -> Option<&'a [u8]> {
        self.text(id::WORKLOAD_OWNER)
    }

    /// Name of the process.
    #[must_use]
    pub fn process(&self) -> Option<&'a [u8]> {
        self.text(id::WORKLOAD_PROCESS)
    }

    /// Path of its control group.
    #[must_use]
    pub fn cgroup(&self) -> Option<&'a [u8]> {
        self.text(id::WORKLOAD_CGROUP)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let pid = self.page.number(id::WORKLOAD_PID, self.number)?;
        u32::try_from(pid).ok()
    }

    fn text(&self, column: usize) -> Option<&'a [u8]> {
        self.page.string(self.page.number(column, self.number)?)
    }
}
