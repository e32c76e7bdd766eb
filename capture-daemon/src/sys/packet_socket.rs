//! Packet sockets (packet(7)).

use std::ffi::{CStr, CString};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// One instruction of a classic BPF program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Instruction {
    /// Operation.
    pub(crate) code: u16,
    /// Instructions to skip when the condition holds.
    pub(crate) if_true: u8,
    /// Instructions to skip when it does not.
    pub(crate) if_false: u8,
    /// Operand.
    pub(crate) operand: u32,
}

/// A packet socket.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
}

#[cfg(feature = "libpcap")]
impl From<OwnedFd> for PacketSocket {
    /// One that somebody else has opened.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl PacketSocket {
    /// Opens a socket that receives nothing before [`bind`](Self::bind).
    ///
    /// With `link_header` packets start at their link header, without it at their network header.
    pub(crate) fn open(link_header: bool) -> io::Result<Self> {
        let kind = if link_header {
            libc::SOCK_RAW
        } else {
            libc::SOCK_DGRAM
        };
        // Protocol zero: a socket that received from the start would let packets by that no filter
        // and no ring is there for yet.
        // SAFETY: the call takes no pointer.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Starts receiving on the interface of that index; 0: on all of them.
    pub(crate) fn bind(&self, interface: u32) -> io::Result<()> {
        let every_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be();
        self.bind_protocol(interface, every_protocol)
    }

    /// The hardware type (`ARPHRD_*`) of the interface of that index. The socket must not have
    /// been bound yet.
    pub(crate) fn hardware_type(&self, interface: u32) -> io::Result<u16> {
        self.bind_protocol(interface, 0)?;
        self.bound_hardware_type()
    }

    /// The hardware type of the interface that the socket is bound to.
    pub(crate) fn bound_hardware_type(&self) -> io::Result<u16> {
        self.address().map(|address| address.sll_hatype)
    }

    /// Whether the socket's interface was removed. One of that name that comes later is another.
    pub(crate) fn has_lost_interface(&self) -> io::Result<bool> {
        self.address().map(|address| address.sll_ifindex < 0)
    }

    /// Lets only packets through that the program accepts.
    pub(crate) fn attach_filter(&self, program: &[Instruction]) -> io::Result<()> {
        let mut program: Vec<libc::sock_filter> = program
            .iter()
            .map(|instruction| libc::sock_filter {
                code: instruction.code,
                jt: instruction.if_true,
                jf: instruction.if_false,
                k: instruction.operand,
            })
            .collect();
        let len = u16::try_from(program.len())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let program = libc::sock_fprog {
            len,
            filter: program.as_mut_ptr(),
        };
        self.set_option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    /// Takes no packets from now on that leave the machine, only those that arrive (Linux 4.20).
    #[cfg(feature = "libpcap")]
    pub(crate) fn ignore_outgoing(&self) -> io::Result<()> {
        let yes: libc::c_int = 1;
        self.set_option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &yes)
    }

    /// The same socket under another descriptor.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.fd.try_clone().map(|fd| Self { fd })
    }

    /// Joins a group of sockets among which the kernel spreads the packets by connection, both
    /// directions to one socket, and returns the group's id; `None` makes a new one. The socket
    /// must be bound.
    pub(crate) fn join_group(&self, group: Option<u16>) -> io::Result<u16> {
        let mode = libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_DEFRAG;
        let mode = match group {
            Some(_) => mode,
            None => mode | libc::PACKET_FANOUT_FLAG_UNIQUEID,
        };
        let argument = (mode << 16) | libc::c_uint::from(group.unwrap_or(0));
        self.set_option(libc::SOL_PACKET, libc::PACKET_FANOUT, &argument)?;
        let joined: libc::c_uint = self.option(libc::SOL_PACKET, libc::PACKET_FANOUT)?;
        // The lower half is the id, the upper the mode.
        Ok(joined as u16)
    }

    /// The packets that found no room in the ring since the call before.
    pub(crate) fn take_drops(&self) -> io::Result<u32> {
        let mut stats = MaybeUninit::<libc::tpacket_stats_v3>::zeroed();
        let mut len = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        // SAFETY: both pointers outlive the call, and `len` is the size of the struct.
        let result = unsafe {
            libc::getsockopt(
                self.raw(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                stats.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        check(result)?;
        // SAFETY: the struct is plain numbers, zeroed before the kernel filled it.
        Ok(unsafe { stats.assume_init() }.tp_drops)
    }

    /// Takes the error that is pending on the socket: that of an interface that went down.
    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        let error: libc::c_int = self.option(libc::SOL_SOCKET, libc::SO_ERROR)?;
        Ok((error != 0).then(|| io::Error::from_raw_os_error(error)))
    }

    pub(super) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(super) fn set_option<T>(
        &self,
        level: libc::c_int,
        name: libc::c_int,
        value: &T,
    ) -> io::Result<()> {
        // SAFETY: the pointer and the length are those of `value`, which outlives the call. Where
        // the value holds a pointer itself (a filter), its owner outlives the call too.
        let result = unsafe {
            libc::setsockopt(
                self.raw(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        check(result)
    }

    /// An option that is a number.
    fn option<T: Default>(&self, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
        let mut value = T::default();
        let mut len = size_of::<T>() as libc::socklen_t;
        // SAFETY: both pointers outlive the call, and `len` is the size of the number.
        let result = unsafe {
            libc::getsockopt(
                self.raw(),
                level,
                name,
                (&raw mut value).cast(),
                &raw mut len,
            )
        };
        check(result)?;
        Ok(value)
    }

    fn address(&self) -> io::Result<libc::sockaddr_ll> {
        let mut address = MaybeUninit::<libc::sockaddr_ll>::zeroed();
        let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: both pointers outlive the call, and `len` is the size of the struct.
        let result =
            unsafe { libc::getsockname(self.raw(), address.as_mut_ptr().cast(), &raw mut len) };
        check(result)?;
        // SAFETY: the struct is plain numbers, zeroed before the kernel filled it.
        Ok(unsafe { address.assume_init() })
    }

    fn bind_protocol(&self, interface: u32, protocol: u16) -> io::Result<()> {
        // SAFETY: the struct is plain numbers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_protocol = protocol;
        address.sll_ifindex = interface.cast_signed();
        // SAFETY: the pointer and the length are those of `address`, which outlives the call.
        let result = unsafe {
            libc::bind(
                self.raw(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        check(result)
    }
}

/// The index of the interface of that name in this thread's network namespace.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends in a zero and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// The names of the interfaces in this thread's network namespace, by index.
pub(crate) fn interface_names() -> Vec<String> {
    // SAFETY: the call takes nothing.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Vec::new();
    }
    let mut names = Vec::new();
    let mut entry = list;
    // SAFETY: the list ends with an entry whose name is null, and `entry` never goes behind it;
    // every other name ends in a zero.
    unsafe {
        while !(*entry).if_name.is_null() {
            names.push(
                CStr::from_ptr((*entry).if_name)
                    .to_string_lossy()
                    .into_owned(),
            );
            entry = entry.add(1);
        }
        libc::if_freenameindex(list);
    }
    names
}

pub(super) fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
