//! A conversation between a client and its upstream: bytes both ways, as they come.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::{Instant, timeout};

use super::session::write_fields;
use crate::mock::connection::Line;
use crate::mock::journal::{Draft, KeptHead, Tee};
use crate::mock::upstream::Upgraded;

/// Holds it until one side breaks it off, or both have ended. `begun` came behind the request. `idle`: how
/// long both may be silent. Gives whether it ended as it should.
pub(super) async fn hold(
    line: Line,
    begun: &[u8],
    upgraded: Upgraded,
    draft: Option<Draft>,
    idle: Duration,
) -> bool {
    let (socket, stop) = line.into_parts();
    let head = head(&upgraded.fields);
    let mut said = None;
    let mut tee = draft.map(|mut draft| {
        draft.tunnel();
        said = Some(draft.goes_on());
        Tee::new(draft, KeptHead::Lines(head.clone()))
    });
    let (mut from_client, mut to_client) = split(socket);
    let (mut from_upstream, mut to_upstream) = split(upgraded.io);
    let silent = Silence {
        since: Mutex::new(Instant::now()),
        patience: idle,
    };
    let stopping = stop.wait();
    let talk = async {
        to_client.write_all(&head).await.map_err(|_| Broken)?;
        to_upstream.write_all(begun).await.map_err(|_| Broken)?;
        if let Some(said) = &said {
            said.add(begun);
        }
        let asks = pass(&mut from_client, &mut to_upstream, &silent, |data| {
            if let Some(said) = &said {
                said.add(data);
            }
        });
        let answers = pass(&mut from_upstream, &mut to_client, &silent, |data| {
            if let Some(tee) = &mut tee {
                tee.data(data);
            }
        });
        tokio::try_join!(asks, answers)
    };
    let whole = tokio::select! {
        talked = talk => talked.is_ok(),
        () = stopping => false,
    };
    if let Some(said) = &said {
        said.end();
    }
    if let Some(tee) = tee {
        tee.end(None, whole);
    }
    whole
}

/// One side broke it off, or neither said anything for too long.
struct Broken;

/// Since when nobody has said anything.
struct Silence {
    since: Mutex<Instant>,
    patience: Duration,
}

impl Silence {
    fn breaks(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_too_long(&self) -> bool {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.elapsed() >= self.patience
    }
}

/// Passes on what comes until it ends, and then its end.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    silent: &Silence,
    mut seen: impl FnMut(&[u8]),
) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match timeout(silent.patience, from.read(&mut buffer)).await {
            Ok(read) => read.map_err(|_| Broken)?,
            Err(_) if silent.is_too_long() => return Err(Broken),
            Err(_) => continue,
        };
        silent.breaks();
        let data = buffer.get(..read).unwrap_or_default();
        if data.is_empty() {
            return to.shutdown().await.map_err(|_| Broken);
        }
        seen(data);
        to.write_all(data).await.map_err(|_| Broken)?;
        to.flush().await.map_err(|_| Broken)?;
    }
}

/// The answer that changes the protocol.
fn head(fields: &HeaderMap) -> Vec<u8> {
    let mut head = b"HTTP/1.1 101 Switching Protocols\r\n".to_vec();
    write_fields(fields, &mut head);
    head.extend_from_slice(b"\r\n");
    head
}

/// Bytes that are passed on at once.
const BUFFER: usize = 16 << 10;
