//! The ways in which a program gives bytes to a socket.
//!
//! Each makes the kernel build its packets from other memory: copies, pages of a file, pages of the
//! program.

#![expect(
    unsafe_code,
    reason = "three of the calls have no safe form in the standard library"
)]

use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::mem;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;

use io_uring::{IoUring, opcode, types};

/// How bytes are given to the socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sending {
    /// send(2).
    Write,
    /// writev(2), of many pieces.
    Writev,
    /// sendmmsg(2), several messages of several pieces a call.
    Sendmmsg,
    /// From a file: `io::copy` uses sendfile(2) for this.
    Sendfile,
    /// splice(2), from a file through a pipe.
    Splice,
    /// send(2) with `MSG_ZEROCOPY`: the packets are made of the program's own pages.
    ZeroCopy,
    /// `IORING_OP_SEND`: no system call sends anything.
    IoUring,
}

impl Sending {
    pub(crate) const ALL: [Self; 7] = [
        Self::Write,
        Self::Writev,
        Self::Sendmmsg,
        Self::Sendfile,
        Self::Splice,
        Self::ZeroCopy,
        Self::IoUring,
    ];

    /// The one of that name.
    pub(crate) fn named(name: &str) -> Self {
        let is_named = |sending: &Self| format!("{sending:?}") == name;
        Self::ALL.into_iter().find(is_named).unwrap()
    }
}

/// Gives all bytes to the socket, which must be a blocking one.
pub(crate) fn send(stream: &mut TcpStream, bytes: &[u8], sending: Sending) {
    match sending {
        Sending::Write => stream.write_all(bytes).unwrap(),
        Sending::Writev => writev(stream, bytes),
        Sending::Sendmmsg => sendmmsg(stream, bytes),
        Sending::Sendfile => {
            let mut file = file_of(bytes);
            assert_eq!(io::copy(&mut file, stream).unwrap(), bytes.len() as u64);
        }
        Sending::Splice => splice(stream, &file_of(bytes), bytes.len()),
        Sending::ZeroCopy => zero_copy(stream, bytes),
        Sending::IoUring => io_uring(stream, bytes),
    }
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

/// The result of a system call that must succeed.
#[track_caller]
fn checked(result: isize) -> usize {
    usize::try_from(result).unwrap_or_else(|_| panic!("{}", io::Error::last_os_error()))
}

fn writev(stream: &mut TcpStream, bytes: &[u8]) {
    /// Odd, so that pieces and pages have no ends in common.
    const PIECE: usize = 1_537;
    const PIECES: usize = 64;

    let mut left = bytes;
    while !left.is_empty() {
        let pieces: Vec<_> = left.chunks(PIECE).take(PIECES).map(IoSlice::new).collect();
        let sent = stream.write_vectored(&pieces).unwrap();
        left = &left[sent..];
    }
}

fn sendmmsg(stream: &TcpStream, bytes: &[u8]) {
    const PIECE: usize = 4_099;
    const PIECES: usize = 3;
    const MESSAGES: usize = 16;

    let mut left = bytes;
    while !left.is_empty() {
        let mut pieces: Vec<Vec<libc::iovec>> = left
            .chunks(PIECE * PIECES)
            .take(MESSAGES)
            .map(|message| message.chunks(PIECE).map(piece).collect())
            .collect();
        let mut messages: Vec<libc::mmsghdr> = pieces.iter_mut().map(|of| message(of)).collect();
        let count = messages.len() as u32;
        // SAFETY: the messages point to pieces, and these to bytes, that outlive the call.
        let sent = unsafe { libc::sendmmsg(stream.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
        let sent = checked(sent as isize);
        for (message, of) in messages.iter().zip(&pieces).take(sent) {
            let len: usize = of.iter().map(|piece| piece.iov_len).sum();
            assert_eq!(message.msg_len as usize, len, "a blocking socket takes all");
            left = &left[len..];
        }
    }
}

fn piece(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

fn message(pieces: &mut [libc::iovec]) -> libc::mmsghdr {
    // SAFETY: all zeros are a message of nothing to nobody.
    let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
    message.msg_hdr.msg_iov = pieces.as_mut_ptr();
    message.msg_hdr.msg_iovlen = pieces.len();
    message
}

fn splice(stream: &TcpStream, file: &File, len: usize) {
    let mut ends = [0; 2];
    // SAFETY: the array has room for both ends.
    checked(unsafe { libc::pipe(ends.as_mut_ptr()) } as isize);
    // SAFETY: these were just opened, and nobody else has them.
    let [reader, writer] = ends.map(|end| unsafe { File::from_raw_fd(end) });
    let move_some = |from: &dyn AsRawFd, to: &dyn AsRawFd, most: usize| {
        let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
        // SAFETY: without offsets the call touches no memory of this program.
        let moved = unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), most, 0) };
        checked(moved)
    };
    let mut left = len;
    while left > 0 {
        let mut in_pipe = move_some(file, &writer, left);
        left -= in_pipe;
        while in_pipe > 0 {
            in_pipe -= move_some(&reader, stream, in_pipe);
        }
    }
}

fn zero_copy(stream: &TcpStream, bytes: &[u8]) {
    /// The kernel notes each call until its packets are gone, in bounded memory.
    const PART: usize = 1 << 20;

    let socket = stream.as_raw_fd();
    let on: libc::c_int = 1;
    // SAFETY: the option is a number of that length.
    let set = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            ptr::from_ref(&on).cast(),
            size_of_val(&on) as u32,
        )
    };
    checked(set as isize);
    let mut left = bytes;
    let mut calls = 0;
    while !left.is_empty() {
        let part = &left[..left.len().min(PART)];
        // SAFETY: the kernel reads these bytes until it has said that it is done, which is waited
        // for below.
        let sent =
            unsafe { libc::send(socket, part.as_ptr().cast(), part.len(), libc::MSG_ZEROCOPY) };
        left = &left[checked(sent)..];
        calls += 1;
    }
    while calls > 0 {
        calls -= wait_for_done(socket);
    }
}

/// How many calls the kernel is done with now (`Documentation/networking/msg_zerocopy.rst`).
fn wait_for_done(socket: libc::c_int) -> u32 {
    let mut poll = libc::pollfd {
        fd: socket,
        events: 0,
        revents: 0,
    };
    // SAFETY: one structure, as announced. Errors are polled for without being asked for.
    checked(unsafe { libc::poll(&raw mut poll, 1, -1) } as isize);
    assert_eq!(poll.revents & libc::POLLERR, libc::POLLERR);
    let mut control = [0_u64; 32];
    // SAFETY: all zeros are a message of nothing.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message points to a buffer of the length that it says.
    checked(unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_ERRQUEUE) });
    // SAFETY: the kernel filled the message in, and the buffer is aligned.
    let note = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    assert!(!note.is_null());
    // SAFETY: the first note is behind its header, and of this type in the error queue.
    let error = unsafe {
        libc::CMSG_DATA(note)
            .cast::<libc::sock_extended_err>()
            .read_unaligned()
    };
    assert_eq!(error.ee_origin, 5, "SO_EE_ORIGIN_ZEROCOPY");
    error.ee_data - error.ee_info + 1
}

fn io_uring(stream: &TcpStream, bytes: &[u8]) {
    let mut ring = IoUring::new(4).unwrap();
    let socket = types::Fd(stream.as_raw_fd());
    let mut left = bytes;
    while !left.is_empty() {
        let entry = opcode::Send::new(socket, left.as_ptr(), left.len() as u32).build();
        // SAFETY: the bytes outlive the entry, whose end is waited for.
        unsafe { ring.submission().push(&entry).unwrap() };
        ring.submit_and_wait(1).unwrap();
        let done = ring.completion().next().unwrap();
        left = &left[usize::try_from(done.result()).unwrap()..];
    }
}
