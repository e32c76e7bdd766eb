//! The TCP sockets of a network namespace, as the kernel lists them (sock_diag(7)).

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{FromRawFd, OwnedFd};

/// A TCP socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TcpSocket {
    /// Its own address and port.
    pub(crate) local: (IpAddr, u16),
    /// Those of the other end; unspecified and 0 where it listens.
    pub(crate) remote: (IpAddr, u16),
    /// As BPF programs tell it. Asking gives the socket one.
    pub(crate) cookie: u64,
    /// As `/proc/PID/fd` names it; 0 where no process has it.
    pub(crate) inode: u32,
    /// It waits for connections.
    pub(crate) listens: bool,
}

/// Connection states (`TCP_ESTABLISHED` and so on in the kernel's `tcp_states.h`).
const LISTEN: u8 = 10;
/// Those in which something may still be said: all but `TCP_SYN_SENT` (its handshake is still to
/// come), `TCP_TIME_WAIT`, `TCP_CLOSE` and `TCP_NEW_SYN_RECV`.
const OPEN: [u8; 8] = [1, 3, 4, 5, 8, 9, LISTEN, 11];

/// Messages (linux/sock_diag.h, linux/netlink.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The header of every message: length, kind, flags, sequence, sender.
const HEADER: usize = 16;

/// As much as the kernel puts into one answer (`NLMSG_GOODSIZE` is at most a page; dumps grow with the
/// buffer up to this).
const BUFFER: usize = 32 << 10;

/// Hands each TCP socket of this thread's network namespace to `each`. Asks for no capability.
pub(crate) fn tcp_sockets(each: &mut dyn FnMut(TcpSocket)) -> io::Result<()> {
    let mut socket = open()?;
    for family in [libc::AF_INET, libc::AF_INET6] {
        socket.write_all(&request(family as u8))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let len = socket.read(&mut buffer)?;
            if !answers(buffer.get(..len).unwrap_or_default(), each)? {
                break;
            }
        }
    }
    Ok(())
}

fn open() -> io::Result<File> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// `struct inet_diag_req_v2` behind its header: every socket of the family in one of the states.
fn request(family: u8) -> Vec<u8> {
    const SOCKET_ID: usize = 48;
    let states = OPEN.iter().fold(0_u32, |all, state| all | 1 << state);
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut message = Vec::new();
    message.extend([0; 4]);
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    message.extend(states.to_ne_bytes());
    message.extend([0; SOCKET_ID]);
    let len = message.len() as u32;
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message
}

/// Reads some messages; whether more come.
fn answers(mut bytes: &[u8], each: &mut dyn FnMut(TcpSocket)) -> io::Result<bool> {
    while let Some((header, _)) = bytes.split_first_chunk::<HEADER>() {
        let [a, b, c, d, e, f, ..] = *header;
        let len = u32::from_ne_bytes([a, b, c, d]) as usize;
        let Some(body) = bytes.get(HEADER..len) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        match u16::from_ne_bytes([e, f]) {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let code = body
                    .first_chunk()
                    .map_or(0, |code| i32::from_ne_bytes(*code));
                return Err(io::Error::from_raw_os_error(-code));
            }
            SOCK_DIAG_BY_FAMILY => {
                if let Some(socket) = read(body) {
                    each(socket);
                }
            }
            _ => {}
        }
        // Messages begin at multiples of four.
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// `struct inet_diag_msg`.
fn read(body: &[u8]) -> Option<TcpSocket> {
    let (&[family, state, _timer, _retransmissions], rest) = body.split_first_chunk()?;
    let (&source_port, rest) = rest.split_first_chunk()?;
    let (&destination_port, rest) = rest.split_first_chunk()?;
    let (&source, rest) = rest.split_first_chunk::<16>()?;
    let (&destination, rest) = rest.split_first_chunk::<16>()?;
    let (_interface, rest) = rest.split_first_chunk::<4>()?;
    let (&low, rest) = rest.split_first_chunk()?;
    let (&high, rest) = rest.split_first_chunk()?;
    let (_expires_queues_and_user, rest) = rest.split_first_chunk::<16>()?;
    let (&inode, _) = rest.split_first_chunk()?;
    let address = |octets: [u8; 16]| {
        let [a, b, c, d, ..] = octets;
        if i32::from(family) == libc::AF_INET {
            IpAddr::from(Ipv4Addr::from([a, b, c, d]))
        } else {
            // A socket for both versions speaks to IPv4 by mapped addresses; its packets are IPv4.
            Ipv6Addr::from(octets).to_canonical()
        }
    };
    Some(TcpSocket {
        local: (address(source), u16::from_be_bytes(source_port)),
        remote: (address(destination), u16::from_be_bytes(destination_port)),
        cookie: u64::from(u32::from_ne_bytes(high)) << 32 | u64::from(u32::from_ne_bytes(low)),
        inode: u32::from_ne_bytes(inode),
        listens: state == LISTEN,
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_lists_our_sockets() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let server = listener.local_addr().unwrap();
            let client = TcpStream::connect(server).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let here = client.local_addr().unwrap();
            let mut found = Vec::new();
            tcp_sockets(&mut |socket| {
                let ends = [socket.local, socket.remote];
                if ends.contains(&(server.ip(), server.port())) {
                    found.push(socket);
                }
            })
            .unwrap();
            assert_eq!(found.len(), 3, "{found:?}");
            assert!(
                found.iter().all(|s| s.cookie != 0 && s.inode != 0),
                "{found:?}"
            );
            let of = |local: std::net::SocketAddr, listens| {
                let local = (local.ip(), local.port());
                let mut sockets = found.iter();
                sockets
                    .find(|s| s.local == local && s.listens == listens)
                    .unwrap()
            };
            assert_eq!(of(here, false).remote, (server.ip(), server.port()));
            assert_eq!(of(server, false).remote, (here.ip(), here.port()));
            of(server, true);
            drop(accepted);
        }
    }

    #[test]
    fn foreign_answers_are_refused_or_passed_over() {
        let mut all = Vec::new();
        let mut each = |socket| all.push(socket);
        // A length beyond what came.
        let mut long = vec![0; HEADER];
        long[..4].copy_from_slice(&999_u32.to_ne_bytes());
        assert!(answers(&long, &mut each).is_err());
        // One below its own header.
        assert!(answers(&[0; HEADER], &mut each).is_err());
        // A short body.
        let mut short = vec![0; HEADER + 8];
        short[..4].copy_from_slice(&(HEADER as u32 + 8).to_ne_bytes());
        short[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        assert!(answers(&short, &mut each).unwrap());
        // Done.
        short[4..6].copy_from_slice(&NLMSG_DONE.to_ne_bytes());
        assert!(!answers(&short, &mut each).unwrap());
        // An error has its number.
        short[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        short[HEADER..HEADER + 4].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        let error = answers(&short, &mut each).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(all, []);
    }
}
