//! HTTP/2: a hundred streams at once on a connection, by the `h2` crate's client and server.

use std::cell::RefCell;
use std::io::{self, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use h2::{client, server};
use http::{Request, Response};
use tapedeck_testkit::Rng;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::task::{JoinSet, LocalSet, yield_now};

use crate::text;
use crate::wire::{Capture, Connection, Side};

/// Streams that are open at once.
const STREAMS: usize = 100;
/// Calls of each of them before the connection is closed.
const CALLS: usize = 100;
/// What a server writes of a body before another stream has its turn.
const TURN: usize = 4096;
/// Flow-control windows, as browsers and proxies set them: beyond any body here.
const WINDOW: u32 = 4 << 20;

/// A connection and the capture that sees it.
struct Tap<W: Write> {
    capture: Capture<W>,
    connection: Connection,
}

/// One connection after the other, until the capture is full.
pub(crate) fn generate(mut capture: Capture<impl Write + 'static>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut seed = 3;
    while !capture.is_full() {
        let connection = capture.connect()?;
        let tap = Rc::new(RefCell::new(Tap {
            capture,
            connection,
        }));
        let local = LocalSet::new();
        runtime.block_on(local.run_until(converse(Rc::clone(&tap), seed)))?;
        // Every task is over; those that were aborted go with their set.
        drop(local);
        let Ok(tap) = Rc::try_unwrap(tap) else {
            anyhow::bail!("a task still holds the connection");
        };
        let tap = tap.into_inner();
        capture = tap.capture;
        capture.close(tap.connection)?;
        seed += 1;
    }
    Ok(capture.finish()?)
}

async fn converse(tap: Rc<RefCell<Tap<impl Write + 'static>>>, seed: u64) -> Result<()> {
    let (near, far) = tokio::io::duplex(256 << 10);
    let serving = tokio::task::spawn_local(serve(Wire::new(far, Side::Server, &tap), seed));
    let (calls, connection) = client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake::<_, Bytes>(Wire::new(near, Side::Client, &tap))
        .await?;
    let driving = tokio::task::spawn_local(connection);
    let mut callers = JoinSet::new();
    for n in 0..STREAMS {
        let rng = Rng::new(seed << 32 | n as u64);
        callers.spawn_local(caller(calls.clone(), rng));
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    drop(calls);
    driving.await??;
    serving.await?
}

async fn caller(mut calls: client::SendRequest<Bytes>, mut rng: Rng) -> Result<()> {
    for _ in 0..CALLS {
        calls = calls.ready().await?;
        let request = Request::builder()
            .method("POST")
            .uri(format!(
                "http://tickets.example/api/v1/search?q={}&session={}",
                text::word(&mut rng),
                text::token(&mut rng, 16)
            ))
            .header("user-agent", "crowd/2.4 (x86_64; linux)")
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .header(
                "authorization",
                format!("Bearer {}", text::token(&mut rng, 64)),
            )
            .header("x-request-id", text::uuid(&mut rng))
            .body(())?;
        let (response, mut body) = calls.send_request(request, false)?;
        let mut query = String::new();
        text::booking(&mut rng, &mut query);
        body.send_data(query.into(), true)?;
        let mut body = response.await?.into_body();
        while let Some(data) = body.data().await {
            let len = data?.len();
            body.flow_control().release_capacity(len)?;
        }
    }
    Ok(())
}

async fn serve(wire: Wire<impl Write + 'static>, seed: u64) -> Result<()> {
    let mut connection = server::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(STREAMS as u32)
        .handshake::<_, Bytes>(wire)
        .await?;
    let mut count = 0_u64;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let rng = Rng::new(seed << 32 | 1 << 31 | count);
        count += 1;
        tokio::task::spawn_local(answer(request.into_body(), respond, rng));
    }
    Ok(())
}

async fn answer(
    mut query: h2::RecvStream,
    mut respond: server::SendResponse<Bytes>,
    mut rng: Rng,
) -> Result<()> {
    while let Some(data) = query.data().await {
        let len = data?.len();
        query.flow_control().release_capacity(len)?;
    }
    let response = Response::builder()
        .header("server", "tickets/1.9")
        .header("content-type", "application/json; charset=utf-8")
        .header("cache-control", "no-store")
        .header("x-trace-id", text::token(&mut rng, 22))
        .body(())?;
    let mut out = respond.send_response(response, false)?;
    // Mostly short answers, some long ones: the mean is about 4 KiB.
    let len = if rng.chance(15) {
        rng.below(48 << 10)
    } else {
        rng.below(1 << 10)
    };
    let mut body = Bytes::from(text::bookings(&mut rng, len));
    while body.len() > TURN {
        out.send_data(body.split_to(TURN), false)?;
        yield_now().await;
    }
    out.send_data(body, true)?;
    Ok(())
}

/// One end of the connection. What it writes, the capture sees.
struct Wire<W: Write> {
    stream: DuplexStream,
    side: Side,
    tap: Rc<RefCell<Tap<W>>>,
}

impl<W: Write> Wire<W> {
    fn new(stream: DuplexStream, side: Side, tap: &Rc<RefCell<Tap<W>>>) -> Self {
        Self {
            stream,
            side,
            tap: Rc::clone(tap),
        }
    }
}

impl<W: Write> AsyncRead for Wire<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<W: Write> AsyncWrite for Wire<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(len @ 1..)) = poll {
            let tap = &mut *self.tap.borrow_mut();
            tap.capture
                .send(&mut tap.connection, self.side, &bytes[..len])?;
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
