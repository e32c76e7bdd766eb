//! A target for `cargo xtask bench replay`: it notes when each request came, to the nanosecond, and
//! does hardly anything else. `arrivals [--stall]`.
//!
//! It prints its port, answers until its standard input ends, and then prints the arrivals, in
//! nanoseconds since the first connection, one a line. With `--stall` it stops dead for one second of
//! every ten. One thread does everything, as in nginx.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const HEAD_END: &[u8] = b"\r\n\r\n";
const STALL: Duration = Duration::from_secs(1);
const STALL_EVERY: Duration = Duration::from_secs(10);

type Arrivals = Rc<RefCell<Vec<Instant>>>;

fn main() -> io::Result<()> {
    let stalls = std::env::args().any(|arg| arg == "--stall");
    let arrivals = Arrivals::default();
    let (end, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || end.send(io::stdin().lock().read_to_end(&mut Vec::new())));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    let serving = async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut out = io::stdout();
        writeln!(out, "{}", listener.local_addr()?.port())?;
        out.flush()?;
        if stalls {
            tokio::task::spawn_local(async {
                loop {
                    tokio::time::sleep(STALL_EVERY - STALL).await;
                    // Not tokio's: nothing else may go on meanwhile.
                    std::thread::sleep(STALL);
                }
            });
        }
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(serve(stream, Rc::clone(&arrivals)));
        }
    };
    let served: io::Result<()> = tasks.block_on(&runtime, async {
        tokio::select! {
            served = serving => served,
            _ = ended => Ok(()),
        }
    });
    served?;
    write_all(&arrivals)
}

async fn serve(mut stream: TcpStream, arrivals: Arrivals) {
    let mut buffer = Vec::with_capacity(16 << 10);
    while matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
        let now = Instant::now();
        let mut answers = 0;
        while let Some(at) = find(&buffer) {
            buffer.drain(..at + HEAD_END.len());
            answers += 1;
        }
        arrivals
            .borrow_mut()
            .extend(std::iter::repeat_n(now, answers));
        if stream.write_all(&ANSWER.repeat(answers)).await.is_err() {
            return;
        }
    }
}

fn find(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(HEAD_END.len())
        .position(|window| window == HEAD_END)
}

fn write_all(arrivals: &Arrivals) -> io::Result<()> {
    let mut arrivals = arrivals.borrow_mut();
    arrivals.sort_unstable();
    let mut out = io::BufWriter::new(io::stdout().lock());
    if let Some(first) = arrivals.first().copied() {
        for at in arrivals.iter() {
            writeln!(out, "{}", at.duration_since(first).as_nanos())?;
        }
    }
    out.flush()
}
