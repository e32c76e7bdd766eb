//! One HTTP/2 connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use h2::Reason;
use h2::server::Builder;
use tokio::sync::Notify;
use tokio::time::{Instant, Interval, interval, sleep_until, timeout};

use super::stream::{Stream, refused, timed_out};
use crate::mock::chaos::ConnectionFaults;
use crate::mock::connection::Line;
use crate::mock::responder::{Origin, Responder};
use crate::mock::socket::Begun;

/// Serves a connection whose first bytes, the preface at least, were read already.
pub(crate) async fn serve(
    line: Line,
    begun: Vec<u8>,
    responder: &Arc<Responder>,
    faults: &ConnectionFaults,
    origin: &Origin,
) {
    let (socket, stop) = line.into_parts();
    let limits = *responder.limits();
    let io = Begun::new(begun, socket);
    let handshake = Builder::new()
        .max_concurrent_streams(limits.http2_streams)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits.http2_pending_resets)
        .max_concurrent_reset_streams(limits.http2_pending_resets)
        .initial_window_size(if faults.window_stall {
            0
        } else {
            STREAM_WINDOW
        })
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake(io);
    let mut connection = match timeout(limits.head_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(_)) => return refused(responder),
        Err(_) => return timed_out(responder),
    };
    // Counts the streams that are being answered: each holds one.
    let busy = Arc::new(());
    let stopping = stop.wait();
    tokio::pin!(stopping);
    let mut stopped = false;
    let idle = sleep_until(Instant::now() + limits.idle_timeout);
    tokio::pin!(idle);
    let mut last = Instant::now();
    let orders = Arc::new(Orders::default());
    let mut storm = Storm {
        left: faults.settings_storm,
        tick: interval(STORM_TICK),
    };
    loop {
        if stop.is_set() && !stopped {
            stopped = true;
            connection.graceful_shutdown();
        }
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    last = Instant::now();
                    let mut stream = Stream { responder: Arc::clone(responder), respond, origin: origin.clone(), stop: Arc::clone(&stop), orders: Arc::clone(&orders) };
                    // A client that resets its streams opens new ones while their answers still
                    // wait for their recorded time.
                    if Arc::strong_count(&busy) > 2 * limits.http2_streams as usize {
                        responder.counters().overloads.fetch_add(1, Ordering::Relaxed);
                        stream.respond.send_reset(Reason::REFUSED_STREAM);
                        continue;
                    }
                    let busy = Arc::clone(&busy);
                    tokio::spawn(async move {
                        stream.serve(request).await;
                        drop(busy);
                    });
                }
                Some(Err(error)) => {
                    if !error.is_io() && error.reason() != Some(Reason::NO_ERROR) {
                        refused(responder);
                    }
                    return;
                }
                None => return,
            },
            () = &mut stopping, if !stopped => {}
            () = orders.wake.notified() => {
                connection.abrupt_shutdown(orders.reason());
            }
            _ = storm.tick.tick(), if storm.left > 0 => {
                // Refused while the one before is not acknowledged.
                let window = STREAM_WINDOW + (storm.left & 1);
                if connection.set_initial_window_size(window).is_ok() {
                    storm.left -= 1;
                }
            }
            () = &mut idle => {
                let until = last + limits.idle_timeout;
                let now = Instant::now();
                if Arc::strong_count(&busy) > 1 {
                    idle.as_mut().reset(now + limits.idle_timeout);
                } else if now < until {
                    idle.as_mut().reset(until);
                } else {
                    return timed_out(responder);
                }
            }
        }
    }
}

/// What a stream asks of its connection.
#[derive(Debug, Default)]
pub(super) struct Orders {
    wake: Notify,
    goaway: AtomicU32,
}

impl Orders {
    pub(super) fn end_with(&self, code: u32) {
        self.goaway.store(code, Ordering::SeqCst);
        self.wake.notify_one();
    }

    fn reason(&self) -> Reason {
        self.goaway.load(Ordering::SeqCst).into()
    }
}

/// SETTINGS frames that are still to be sent.
struct Storm {
    left: u32,
    tick: Interval,
}

/// How often a SETTINGS frame of a storm is tried.
const STORM_TICK: Duration = Duration::from_millis(1);
/// What a client may send ahead on one stream.
const STREAM_WINDOW: u32 = 256 << 10;
/// What a client may send ahead on one connection: this much may wait in memory.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What may wait to be sent on one stream.
const SEND_BUFFER: usize = 256 << 10;
