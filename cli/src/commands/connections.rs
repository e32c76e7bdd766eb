//! TLS connections that could not be read.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use serde::Serialize;
use tapedeck_archive::Archive;
use tapedeck_interchange::{header_text, rfc3339};
use tapedeck_model::{Ledger, Tls, Unread, UnreadConnection, alert_name};

use crate::args::Format;
use crate::output;

/// Server names that are told apart in a summary; the rest is one line. Names come from strangers.
const MAX_NAMES: usize = 1000;

/// One connection as a JSON object.
#[derive(Debug, Serialize)]
struct Line {
    /// RFC 3339.
    opened: String,
    last_byte: String,
    client: String,
    server: String,
    server_name: Option<String>,
    alpn: Option<String>,
    tls_version: Option<&'static str>,
    /// As IANA numbers it.
    cipher_suite: Option<u16>,
    bytes_to_server: u64,
    bytes_to_client: u64,
    reason: &'static str,
    /// The alert that ended the handshake, by its number and its name.
    alert: Option<u8>,
    alert_name: Option<&'static str>,
}

impl Line {
    fn of(unread: &UnreadConnection) -> Self {
        let connection = &unread.connection;
        let none = Tls::default();
        let tls = connection.tls.as_deref().unwrap_or(&none);
        let text = |bytes: &Option<Vec<u8>>| Some(header_text(bytes.as_ref()?).into_owned());
        Self {
            opened: rfc3339(connection.opened),
            last_byte: rfc3339(unread.last_byte),
            client: connection.client.to_string(),
            server: connection.server.to_string(),
            server_name: text(&tls.server_name),
            alpn: text(&tls.alpn),
            tls_version: tls.version.map(tapedeck_model::TlsVersion::name),
            cipher_suite: tls.suite,
            bytes_to_server: unread.bytes.to_server,
            bytes_to_client: unread.bytes.to_client,
            reason: unread.reason.name(),
            alert: unread.reason.alert(),
            alert_name: unread.reason.alert().map(alert_name),
        }
    }
}

/// Prints every connection of the archive that could not be read.
pub(super) fn list(archive: &Archive, format: Format, out: &mut impl Write) -> Result<()> {
    if format == Format::Table {
        writeln!(
            out,
            "{:<15}  {:<21}  {:<21}  {:<24}  {:<8}  {:>3}  {:>9}  {:>9}  WHY",
            "OPENED", "CLIENT", "SERVER", "SERVER NAME", "ALPN", "TLS", "UP", "DOWN"
        )?;
    }
    for unread in archive.unread() {
        let line = Line::of(&unread?);
        if format == Format::Json {
            serde_json::to_writer(&mut *out, &line)?;
            out.write_all(b"\n")?;
            continue;
        }
        let or_none = |text: &Option<String>| {
            text.as_ref()
                .map_or_else(|| "-".to_owned(), |text| output::visible(text))
        };
        writeln!(
            out,
            "{:<15}  {:<21}  {:<21}  {:<24}  {:<8}  {:>3}  {:>9}  {:>9}  {}{}",
            line.opened.get(11..26).unwrap_or(&line.opened),
            line.client,
            line.server,
            or_none(&line.server_name),
            or_none(&line.alpn),
            line.tls_version.unwrap_or("-"),
            output::bytes(line.bytes_to_server),
            output::bytes(line.bytes_to_client),
            line.reason,
            line.alert_name
                .map_or_else(String::new, |name| format!(": {name}")),
        )?;
    }
    Ok(())
}

/// Connections of one server that could not be read for one reason.
#[derive(Debug, Default, Serialize)]
pub(super) struct Sum {
    reason: &'static str,
    server_name: Option<String>,
    connections: u64,
    bytes_to_server: u64,
    bytes_to_client: u64,
}

/// The connections of the archive that could not be read, by reason and server name; the most
/// frequent first.
pub(super) fn sums(archive: &Archive) -> Result<Vec<Sum>> {
    let mut sums: BTreeMap<(Unread, Option<String>), Sum> = BTreeMap::new();
    for unread in archive.unread() {
        let unread = unread?;
        let mut server_name = Line::of(&unread).server_name;
        if sums.len() >= MAX_NAMES && !sums.contains_key(&(unread.reason, server_name.clone())) {
            server_name = Some("(others)".to_owned());
        }
        let sum = sums
            .entry((unread.reason, server_name.clone()))
            .or_insert_with(|| Sum {
                reason: unread.reason.name(),
                server_name,
                ..Sum::default()
            });
        sum.connections += 1;
        sum.bytes_to_server = sum.bytes_to_server.saturating_add(unread.bytes.to_server);
        sum.bytes_to_client = sum.bytes_to_client.saturating_add(unread.bytes.to_client);
    }
    let mut sums: Vec<Sum> = sums.into_values().collect();
    // Stable: by reason and name among equals.
    sums.sort_by_key(|sum| std::cmp::Reverse(sum.connections));
    Ok(sums)
}

/// Prints [`sums`].
pub(super) fn summarise(sums: &[Sum], out: &mut impl Write) -> Result<()> {
    if sums.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "{:<32}  {:>9}  {:>9}  {:>9}  WHY",
        "TLS NOT READ: SERVER NAME", "COUNT", "UP", "DOWN"
    )?;
    for sum in sums {
        let name = sum.server_name.as_deref().unwrap_or("-");
        writeln!(
            out,
            "{:<32}  {:>9}  {:>9}  {:>9}  {}",
            output::visible(name),
            sum.connections,
            output::bytes(sum.bytes_to_server),
            output::bytes(sum.bytes_to_client),
            sum.reason,
        )?;
    }
    writeln!(out)?;
    Ok(())
}

/// How many TLS connections could not be read, and why; `None` where there are none.
pub(super) fn unread(ledger: &Ledger) -> Option<String> {
    let reasons: Vec<String> = Unread::ALL
        .iter()
        .map(|reason| (ledger.unread(*reason), reason.name()))
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    let sum: u64 = Unread::ALL
        .iter()
        .map(|reason| ledger.unread(*reason))
        .sum();
    (sum > 0).then(|| {
        format!(
            "{sum} of {} TLS connections could not be read, or not to their end: {}",
            ledger.connections_tls,
            reasons.join(", ")
        )
    })
}
