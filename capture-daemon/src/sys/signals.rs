//! Waiting for signals.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::thread;
use std::time::Duration;

/// A wish from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Signal {
    /// SIGHUP.
    Reload,
    /// SIGINT, SIGTERM or SIGQUIT.
    Stop,
}

/// What ends a process unless it says otherwise, and must not leave an archive unsealed: SIGUSR1 and SIGUSR2 may mean
/// "reopen your log" or "tell me more" to who sends them. SIGXFSZ comes with a write that fails, which is told by that.
const PASSED_OVER: [libc::c_int; 4] = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGXFSZ];

const STOP: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGQUIT];

/// The signals that are waited for, which end the process no more.
#[derive(Clone, Copy)]
pub(crate) struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Blocks the signals, in this thread and those that it starts from now on: to be called before
    /// there are others.
    pub(crate) fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` fills the set, which outlives the calls; the numbers are of signals.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in PASSED_OVER.into_iter().chain(STOP).chain([libc::SIGHUP]) {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            set.assume_init()
        };
        // SAFETY: the set is filled, and the old mask is not asked for.
        let result =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        Ok(Self { set })
    }

    /// Waits for the next one up to `timeout`. One that means nothing ends the wait, too.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<Signal> {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: both pointers outlive the call; what else is known of the signal is not asked for.
        let signal =
            unsafe { libc::sigtimedwait(&raw const self.set, ptr::null_mut(), &raw const timeout) };
        match signal {
            libc::SIGHUP => Some(Signal::Reload),
            signal if STOP.contains(&signal) => Some(Signal::Stop),
            _ => None,
        }
    }
}

/// Calls `each` whenever the process is asked to stop: by SIGHUP, too, which comes where a terminal is closed. To be
/// called before there are other threads.
///
/// # Errors
///
/// When the system refuses.
pub fn on_stop(mut each: impl FnMut() + Send + 'static) -> io::Result<()> {
    const LONG: Duration = Duration::from_secs(3_600);
    let signals = Signals::block()?;
    let wait = move || {
        loop {
            if let Some(Signal::Stop | Signal::Reload) = signals.wait(LONG) {
                each();
            }
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .map(drop)
}
