//! The addresses of this network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

/// The IP addresses of all interfaces; none where the kernel does not tell.
pub(crate) fn own_addresses() -> Vec<IpAddr> {
    let mut list = ptr::null_mut();
    // SAFETY: the pointer to the list outlives the call.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Vec::new();
    }
    let mut addresses = Vec::new();
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: the entry is one of the list, which is freed below.
        let (address, next) = unsafe { ((*entry).ifa_addr, (*entry).ifa_next) };
        if !address.is_null() {
            // SAFETY: every address begins with its family, which says what the rest is.
            addresses.extend(unsafe { ip(address) });
        }
        entry = next;
    }
    // SAFETY: the list came from `getifaddrs`, and no entry is used from here on.
    unsafe { libc::freeifaddrs(list) };
    addresses
}

/// The IP address in a socket address.
///
/// # Safety
///
/// `address` points to a socket address of the family that it names.
unsafe fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller vouches for the address.
    match i32::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: the family says that this is one of IPv4.
            let address = unsafe { (*address.cast::<libc::sockaddr_in>()).sin_addr };
            Some(Ipv4Addr::from(u32::from_be(address.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is one of IPv6.
            let address = unsafe { (*address.cast::<libc::sockaddr_in6>()).sin6_addr };
            Some(Ipv6Addr::from(address.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there() {
        assert!(own_addresses().contains(&Ipv4Addr::LOCALHOST.into()));
    }
}
