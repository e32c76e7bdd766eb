//! What `verify` asks of a page.

use super::column::Value;
use super::id;
use super::row::Row;
use super::view::{Layout, Page};
use crate::error::Damage;

impl Page<'_> {
    /// Whether every number in the page names something. Only [`verify`](crate::verify) asks:
    /// readers take what is out of range as "none". Pages of version 1 are compared with what
    /// their records say, which is more.
    pub(crate) fn check(&self) -> Result<(), Damage> {
        let Layout::V2(_) = self.layout else {
            return Ok(());
        };
        let is_named = |column: usize, len: usize| {
            let column = self.column(column);
            (0..column.count).all(|row| match column.value(row) {
                Value::Some(number) => number < len as u64,
                Value::None => true,
                Value::Wide => false,
            })
        };
        let count = |column: usize| self.column(column).count;
        let strings = [
            id::METHOD,
            id::SCHEME,
            id::AUTHORITY,
            id::TARGET_SHARED,
            id::TLS_SERVER_NAME,
            id::TLS_ALPN,
            id::WORKLOAD_NAMESPACE,
            id::WORKLOAD_POD,
            id::WORKLOAD_CONTAINER,
            id::WORKLOAD_OWNER,
            id::WORKLOAD_PROCESS,
            id::WORKLOAD_CGROUP,
        ];
        let tables = [
            (id::TARGET, id::TARGET_END),
            (id::CONNECTION, id::CONNECTION_ID),
            (id::ANOMALIES, id::ANOMALIES_LOW),
            (id::SESSION, id::SESSION_KEY),
            (id::REQUEST_BODY, id::BODY_BLOCK),
            (id::RESPONSE_BODY, id::BODY_BLOCK),
            (id::CLIENT, id::ADDRESS_LOW),
            (id::SERVER, id::ADDRESS_LOW),
            (id::TLS, id::TLS_VERSION),
            (id::CLIENT_WORKLOAD, id::WORKLOAD_POD),
            (id::SERVER_WORKLOAD, id::WORKLOAD_POD),
        ];
        let sound = strings
            .into_iter()
            .all(|column| is_named(column, self.n_strings()))
            && tables
                .into_iter()
                .all(|(column, table)| is_named(column, count(table)));
        if sound {
            Ok(())
        } else {
            Err(Damage::Structure("a row points outside of its page"))
        }
    }

    /// Whether both say the same of every row, as far as pages of version 1 go.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let same = |(row, other): (Row<'_>, Row<'_>)| {
            (row.time(), row.duration(), row.first_byte(), row.status())
                == (
                    other.time(),
                    other.duration(),
                    other.first_byte(),
                    other.status(),
                )
                && (row.connection(), row.stream(), row.client(), row.server())
                    == (
                        other.connection(),
                        other.stream(),
                        other.client(),
                        other.server(),
                    )
                && (row.method(), row.scheme(), row.authority(), row.target())
                    == (
                        other.method(),
                        other.scheme(),
                        other.authority(),
                        other.target(),
                    )
                && (row.request_body_len(), row.response_body_len(), row.place())
                    == (
                        other.request_body_len(),
                        other.response_body_len(),
                        other.place(),
                    )
                && (
                    row.request_missing(),
                    row.response_missing(),
                    row.anomalies(),
                ) == (
                    other.request_missing(),
                    other.response_missing(),
                    other.anomalies(),
                )
                && (row.complete(), row.tunnel(), row.pushed(), row.protocol())
                    == (
                        other.complete(),
                        other.tunnel(),
                        other.pushed(),
                        other.protocol(),
                    )
        };
        self.n_rows == other.n_rows && self.rows().zip(other.rows()).all(same)
    }
}
