//! Ctrl-c and its like.

use std::io;
use std::thread;

use anyhow::{Context, Result};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// Calls `each` whenever the process is asked to end (SIGINT, SIGTERM, SIGHUP), instead of ending
/// it.
pub(crate) fn on_interrupt(mut each: impl FnMut() + Send + 'static) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build();
    let runtime = runtime.context("failed to wait for signals")?;
    let (registered, is_registered) = std::sync::mpsc::channel::<io::Result<()>>();
    thread::spawn(move || {
        runtime.block_on(async {
            let kinds = [
                SignalKind::interrupt(),
                SignalKind::terminate(),
                SignalKind::hangup(),
            ];
            let [interrupt, terminate, hangup] = kinds.map(signal);
            let (mut interrupt, mut terminate, mut hangup) = match (interrupt, terminate, hangup) {
                (Ok(interrupt), Ok(terminate), Ok(hangup)) => (interrupt, terminate, hangup),
                (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => {
                    drop(registered.send(Err(error)));
                    return;
                }
            };
            drop(registered.send(Ok(())));
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                each();
            }
        });
    });
    is_registered.recv()?.context("failed to wait for signals")
}
