//! Which connections are taken, and how much of them.

use aya_ebpf::helpers::generated::bpf_skb_ancestor_cgroup_id;
use aya_ebpf::programs::SkBuffContext;
use tapedeck_ebpf_abi::{HEADERS_BYTES, MAX_CGROUP_LEVELS, Policy, Settings};

use crate::emit::opaque;
use crate::headers::Headers;
use crate::{CGROUPS, CGROUPS_FOUND, COOKIES, POLICIES, PORTS};

/// No rule.
const NONE: u32 = 0;

/// How many payload bytes of the packet are taken; `None`: the packet is left out.
#[inline(always)]
pub fn payload(
    ctx: &SkBuffContext,
    settings: &Settings,
    headers: &Headers,
    cgroup: u64,
    cookie: u64,
) -> Option<u32> {
    let mut rule = NONE;
    if settings.by_socket != 0
        && let Some(of_socket) = COOKIES.get_ptr(cookie)
    {
        // SAFETY: the pointer is to a live map entry.
        rule = unsafe { *of_socket };
    }
    if rule == NONE {
        if settings.by_port != 0 {
            rule = first(of_port(headers.source), of_port(headers.destination));
        }
        if settings.by_cgroup != 0 {
            rule = first(rule, of_cgroup(ctx, cgroup, settings.generation));
        }
    }
    let policy = POLICIES.get(rule)?;
    if policy.action == Policy::IGNORE || headers.hash as u32 > policy.sample {
        return None;
    }
    if policy.action == Policy::HEADERS && headers.payload_len > HEADERS_BYTES {
        return Some(HEADERS_BYTES);
    }
    Some(headers.payload_len)
}

/// The rule that comes first in the list.
#[inline(always)]
fn first(a: u32, b: u32) -> u32 {
    // Zero, no rule, becomes the last of all.
    if a.wrapping_sub(1) <= b.wrapping_sub(1) {
        a
    } else {
        b
    }
}

#[inline(always)]
fn of_port(port: u16) -> u32 {
    match PORTS.get(u32::from(port >> 3)) {
        Some(rules) => (rules >> ((port & 7) * 8)) as u32 & 0xff,
        None => NONE,
    }
}

/// The first rule of the cgroup and those above it.
#[inline(never)]
fn of_cgroup(ctx: &SkBuffContext, cgroup: u64, generation: u32) -> u32 {
    let generation = u64::from(generation) << 32;
    if let Some(found) = CGROUPS_FOUND.get_ptr(cgroup) {
        // SAFETY: the pointer is to a live map entry.
        let found = unsafe { *found };
        if found & !0xffff_ffff == generation {
            return found as u32;
        }
    }
    let mut rule = NONE;
    // The compiler would write the loop out, twelve times.
    for level in 0..opaque(u64::from(MAX_CGROUP_LEVELS)) {
        // SAFETY: the context is a live skb, which the helper takes.
        let ancestor = unsafe { bpf_skb_ancestor_cgroup_id(ctx.skb.skb, level as i32) };
        if ancestor == 0 {
            break;
        }
        if let Some(of_ancestor) = CGROUPS.get_ptr(ancestor) {
            // SAFETY: as above.
            rule = first(rule, unsafe { *of_ancestor });
        }
    }
    // Without room it is worked out again.
    let _ = CGROUPS_FOUND.insert(cgroup, generation | u64::from(rule), 0);
    rule
}
