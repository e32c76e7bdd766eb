//! What `cargo xtask bench archive` measures within one process, on archives that it brings:
//! `archive-figures WHAT ARCHIVE ...`. Prints one JSON object: seconds of the thread's processor time,
//! bytes, and counts.

#![forbid(unsafe_code)]

mod copying;
mod encryption;
mod reading;
mod writing;

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

const USAGE: &str = "usage: archive-figures write ARCHIVE OUT
       archive-figures grow OUT EXCHANGES BYTES ARCHIVE...
       archive-figures filter ARCHIVE EXPRESSION
       archive-figures open ARCHIVE ARCHIVE
       archive-figures random ARCHIVE
       archive-figures scan ARCHIVE
       archive-figures copy ARCHIVE OUT
       archive-figures encrypted ARCHIVE OUT
       archive-figures trickle ARCHIVE OUT";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let figures = match args.as_slice() {
        ["write", archive, out] => writing::write(archive, out)?,
        ["trickle", archive, out] => writing::trickle(archive, out)?,
        ["grow", out, exchanges, bytes, archives @ ..] => {
            let number = |text: &str| text.parse::<u64>().context("not a number");
            copying::grow(archives, out, number(exchanges)?, number(bytes)?)?
        }
        ["copy", archive, out] => copying::copy_and_rewrite(archive, out)?,
        ["encrypted", archive, out] => encryption::compare(archive, out)?,
        ["filter", archive, expression] => reading::filter(archive, expression)?,
        ["open", small, large] => reading::open(small, large)?,
        ["random", archive] => reading::random(archive)?,
        ["scan", archive] => reading::scan(archive)?,
        _ => bail!("{USAGE}"),
    };
    print(&figures)
}

fn print(figures: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{figures}")?;
    Ok(())
}

/// The processor time that this thread has taken. On a machine that does other things, too, that is
/// steadier than the time on the clock.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// What a call takes of the processor.
fn timed<T>(call: impl FnOnce() -> T) -> (Duration, T) {
    let before = spent();
    let result = call();
    (spent().saturating_sub(before), result)
}

/// The value at this share, in thousandths, of what was measured.
fn quantile(times: &mut [Duration], thousandths: usize) -> f64 {
    times.sort_unstable();
    let place = times.len().saturating_sub(1) * thousandths / 1000;
    times.get(place).map_or(0.0, Duration::as_secs_f64)
}
