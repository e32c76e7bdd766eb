//! The program that the kernel runs for each packet to decide whether it is copied: classic BPF.
//!
//! It lets pass what can carry TCP of the wanted ports, and whatever it cannot look into: later
//! IP fragments and tags within tags. What is lost must be seen to be counted, so in doubt a packet
//! passes.

use libc::{
    BPF_ABS, BPF_ADD, BPF_ALU, BPF_B, BPF_H, BPF_IMM, BPF_IND, BPF_JA, BPF_JEQ, BPF_JMP, BPF_JSET,
    BPF_K, BPF_LD, BPF_LDX, BPF_LSH, BPF_MEM, BPF_MISC, BPF_MSH, BPF_RET, BPF_ST, BPF_TAX, BPF_W,
    BPF_X,
};

use crate::sys::Instruction;

/// The most ports in one filter: it is run for each packet and looks at one port after the other.
pub const MAX_PORTS: usize = 256;

const ETHERTYPE_IPV4: u32 = 0x0800;
const ETHERTYPE_IPV6: u32 = 0x86dd;
const ETHERTYPE_VLAN: u32 = 0x8100;
const ETHERTYPE_QINQ: u32 = 0x88a8;

const TCP: u32 = 6;
const FRAGMENT: u32 = 44;
const AUTHENTICATION: u32 = 51;
/// Hop-by-Hop Options, Routing, Destination Options: these have one layout.
const EXTENSIONS: [u32; 3] = [0, 43, 60];

/// IPv6 extension headers that the filter steps over; it lets pass what has more.
const MAX_EXTENSIONS: usize = 4;

/// The filter for packets whose network header starts at `network`. No ports: all of them.
pub(super) fn program(network: u32, ports: &[u16], snaplen: u32) -> Vec<Instruction> {
    let mut program = Assembler::default();
    let accept = program.label();
    let drop = program.label();
    let ipv6 = program.label();
    let by_port = program.label();

    // Loopback devices show every packet twice. The sender's copies are in the order of the stream; those
    // that arrive pass through a queue for each processor, in which they overtake each other.
    let not_loopback = program.label();
    program.load_extra(libc::SKF_AD_HATYPE);
    program.jump_unless_equal(u32::from(libc::ARPHRD_LOOPBACK), not_loopback);
    program.load_extra(libc::SKF_AD_PKTTYPE);
    program.jump_unless_equal(u32::from(libc::PACKET_OUTGOING), drop);
    program.place(not_loopback);

    // The protocol behind one VLAN tag: the kernel has taken that out.
    program.load_extra(libc::SKF_AD_PROTOCOL);
    program.jump_if_equal(ETHERTYPE_IPV6, ipv6);
    program.jump_if_equal(ETHERTYPE_VLAN, accept);
    program.jump_if_equal(ETHERTYPE_QINQ, accept);
    program.jump_unless_equal(ETHERTYPE_IPV4, drop);

    program.load(BPF_B | BPF_ABS, network + 9);
    program.jump_unless_equal(TCP, drop);
    program.load(BPF_H | BPF_ABS, network + 6);
    program.jump_if_any(0x1fff, accept);
    program.push(BPF_LDX | BPF_B | BPF_MSH, network);
    program.jump(by_port);

    program.place(ipv6);
    program.load(BPF_B | BPF_ABS, network + 6);
    program.push(BPF_LDX | BPF_W | BPF_IMM, 40);
    for _ in 0..MAX_EXTENSIONS {
        extension_header(&mut program, network, accept, drop, by_port);
    }
    program.place(accept);
    program.push(BPF_RET | BPF_K, snaplen);
    program.place(drop);
    program.push(BPF_RET | BPF_K, 0);

    // X: the offset of the TCP header from the network header.
    program.place(by_port);
    if ports.is_empty() {
        program.push(BPF_RET | BPF_K, snaplen);
        return program.finish();
    }
    for offset in [0, 2] {
        program.load(BPF_H | BPF_IND, network + offset);
        for port in ports {
            let next = program.label();
            program.jump_unless_equal(u32::from(*port), next);
            program.push(BPF_RET | BPF_K, snaplen);
            program.place(next);
        }
    }
    program.push(BPF_RET | BPF_K, 0);
    program.finish()
}

/// The filter that lets nothing pass.
pub(in crate::sources) fn nothing() -> Vec<Instruction> {
    let mut program = Assembler::default();
    program.push(BPF_RET | BPF_K, 0);
    program.finish()
}

/// A: the kind of the header at X. Steps over it if it is an extension header (RFC 8200 section 4).
fn extension_header(
    program: &mut Assembler,
    network: u32,
    accept: Label,
    drop: Label,
    by_port: Label,
) {
    let (fragment, authentication, extension, next) = (
        program.label(),
        program.label(),
        program.label(),
        program.label(),
    );
    let not_tcp = program.label();
    program.jump_unless_equal(TCP, not_tcp);
    program.jump(by_port);
    program.place(not_tcp);
    program.jump_if_equal(FRAGMENT, fragment);
    program.jump_if_equal(AUTHENTICATION, authentication);
    for kind in EXTENSIONS {
        program.jump_if_equal(kind, extension);
    }
    program.jump(drop);

    program.place(fragment);
    program.load(BPF_H | BPF_IND, network + 2);
    program.jump_if_any(0xfff8, accept);
    step(program, network, |program| {
        program.push(BPF_LD | BPF_W | BPF_IMM, 8);
    });
    program.jump(next);

    // RFC 4302 section 2.2: in units of four bytes, minus two.
    program.place(authentication);
    step(program, network, |program| {
        program.load(BPF_B | BPF_IND, network + 1);
        program.push(BPF_ALU | BPF_ADD | BPF_K, 2);
        program.push(BPF_ALU | BPF_LSH | BPF_K, 2);
    });
    program.jump(next);

    program.place(extension);
    step(program, network, |program| {
        program.load(BPF_B | BPF_IND, network + 1);
        program.push(BPF_ALU | BPF_ADD | BPF_K, 1);
        program.push(BPF_ALU | BPF_LSH | BPF_K, 3);
    });
    program.place(next);
}

/// A becomes the kind of the next header, X its place; `length` loads this one's length.
fn step(program: &mut Assembler, network: u32, length: impl FnOnce(&mut Assembler)) {
    program.load(BPF_B | BPF_IND, network);
    program.push(BPF_ST, 0);
    length(program);
    program.push(BPF_ALU | BPF_ADD | BPF_X, 0);
    program.push(BPF_MISC | BPF_TAX, 0);
    program.push(BPF_LD | BPF_W | BPF_MEM, 0);
}

/// A place in a program that is still being written.
#[derive(Clone, Copy)]
struct Label(usize);

/// Writes a program and puts the distances of its jumps in.
#[derive(Default)]
struct Assembler {
    program: Vec<Instruction>,
    /// Where each label stands.
    labels: Vec<usize>,
    jumps: Vec<Jump>,
}

struct Jump {
    at: usize,
    to: Label,
    when: When,
}

enum When {
    Always,
    True,
    False,
}

impl Assembler {
    fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        Label(self.labels.len() - 1)
    }

    fn place(&mut self, label: Label) {
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = self.program.len();
        }
    }

    fn push(&mut self, code: u32, operand: u32) {
        self.program.push(Instruction {
            code: code as u16,
            if_true: 0,
            if_false: 0,
            operand,
        });
    }

    fn load(&mut self, kind: u32, operand: u32) {
        self.push(BPF_LD | kind, operand);
    }

    /// Loads what the kernel knows beside the packet.
    fn load_extra(&mut self, what: libc::c_int) {
        let offset = (libc::SKF_AD_OFF + what).cast_unsigned();
        self.push(BPF_LD | BPF_W | BPF_ABS, offset);
    }

    fn jump(&mut self, to: Label) {
        self.branch(BPF_JA, 0, to, When::Always);
    }

    fn jump_if_equal(&mut self, value: u32, to: Label) {
        self.branch(BPF_JEQ, value, to, When::True);
    }

    fn jump_unless_equal(&mut self, value: u32, to: Label) {
        self.branch(BPF_JEQ, value, to, When::False);
    }

    fn jump_if_any(&mut self, bits: u32, to: Label) {
        self.branch(BPF_JSET, bits, to, When::True);
    }

    fn branch(&mut self, operation: u32, operand: u32, to: Label, when: When) {
        self.jumps.push(Jump {
            at: self.program.len(),
            to,
            when,
        });
        self.push(BPF_JMP | operation | BPF_K, operand);
    }

    fn finish(self) -> Vec<Instruction> {
        let Self {
            mut program,
            labels,
            jumps,
        } = self;
        for Jump { at, to, when } in jumps {
            let (Some(place), Some(instruction)) = (labels.get(to.0), program.get_mut(at)) else {
                continue;
            };
            let distance = place - at - 1;
            // Only `Always` may go further than 255. That the others do not is a property of the
            // program above, the same for every input, and tested.
            debug_assert!(matches!(when, When::Always) || distance < 256);
            match when {
                When::Always => instruction.operand = distance as u32,
                When::True => instruction.if_true = distance as u8,
                When::False => instruction.if_false = distance as u8,
            }
        }
        program
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SNAPLEN: u32 = 1_000;
    const ETHERNET: u16 = libc::ARPHRD_ETHER;

    /// What the kernel knows beside the packet.
    #[derive(Clone, Copy)]
    struct Meta {
        hardware: u16,
        kind: u8,
        protocol: u32,
    }

    /// Runs a program as the kernel does: a load behind the packet's end returns 0.
    fn run(program: &[Instruction], packet: &[u8], meta: Meta) -> u32 {
        let (mut a, mut x, mut memory, mut at) = (0_u32, 0_u32, BTreeMap::new(), 0);
        loop {
            let Instruction {
                code,
                if_true,
                if_false,
                operand: k,
            } = program[at];
            let code = u32::from(code);
            at += 1;
            let load = |offset: u32, len: usize| -> Option<u32> {
                let bytes = packet.get(offset as usize..)?.get(..len)?;
                Some(
                    bytes
                        .iter()
                        .fold(0, |all, byte| all << 8 | u32::from(*byte)),
                )
            };
            let len = match code & 0x18 {
                BPF_W => 4,
                BPF_H => 2,
                _ => 1,
            };
            let jump = |holds: bool| usize::from(if holds { if_true } else { if_false });
            match (code & 0x07, code & 0xe0) {
                (BPF_LD, BPF_ABS) if k.cast_signed() < 0 => {
                    a = match k.cast_signed() - libc::SKF_AD_OFF {
                        libc::SKF_AD_PROTOCOL => meta.protocol,
                        libc::SKF_AD_PKTTYPE => u32::from(meta.kind),
                        libc::SKF_AD_HATYPE => u32::from(meta.hardware),
                        other => panic!("unknown {other}"),
                    }
                }
                (BPF_LD, BPF_ABS) => match load(k, len) {
                    Some(value) => a = value,
                    None => return 0,
                },
                (BPF_LD, BPF_IND) => match load(x + k, len) {
                    Some(value) => a = value,
                    None => return 0,
                },
                (BPF_LD, BPF_IMM) => a = k,
                (BPF_LD, BPF_MEM) => a = memory[&k],
                (BPF_LDX, BPF_MSH) => match load(k, 1) {
                    Some(value) => x = (value & 0xf) * 4,
                    None => return 0,
                },
                (BPF_LDX, BPF_IMM) => x = k,
                (BPF_ST, _) => drop(memory.insert(k, a)),
                (BPF_ALU, _) => match (code & 0xf0, code & BPF_X) {
                    (BPF_ADD, BPF_X) => a += x,
                    (BPF_ADD, _) => a += k,
                    (BPF_LSH, _) => a <<= k,
                    other => panic!("unknown {other:?}"),
                },
                (BPF_MISC, _) => x = a,
                (BPF_JMP, _) => {
                    at += match code & 0xf0 {
                        BPF_JA => k as usize,
                        BPF_JEQ => jump(a == k),
                        BPF_JSET => jump(a & k != 0),
                        other => panic!("unknown {other}"),
                    }
                }
                (BPF_RET, _) => return k,
                other => panic!("unknown {other:?}"),
            }
        }
    }

    fn tcp(source: u16, destination: u16) -> Vec<u8> {
        let mut segment = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        segment.resize(20, 0);
        segment
    }

    fn ipv4(options: usize, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20 + options];
        packet[0] = 0x45 + (options / 4) as u8;
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[9] = protocol;
        packet.extend_from_slice(payload);
        packet
    }

    /// Extension headers as (kind, length in bytes).
    fn ipv6(extensions: &[(u8, usize)], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60; 40];
        let mut kinds: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).collect();
        kinds.push(protocol);
        packet[6] = kinds[0];
        for ((kind, len), next) in extensions.iter().zip(&kinds[1..]) {
            let unit = match *kind {
                51 => len / 4 - 2,
                44 => 0,
                _ => len / 8 - 1,
            };
            let mut header = vec![0; *len];
            header[0] = *next;
            header[1] = unit as u8;
            packet.extend(header);
        }
        packet.extend_from_slice(payload);
        packet
    }

    /// With and without a link header, the verdict is the same.
    #[track_caller]
    fn check(ports: &[u16], protocol: u32, packet: &[u8], passes: bool) {
        let meta = Meta {
            hardware: ETHERNET,
            kind: 0,
            protocol,
        };
        let framed = [&[0; 14], packet].concat();
        for (network, packet) in [(0, packet), (14, &framed)] {
            let verdict = run(&program(network, ports, SNAPLEN), packet, meta);
            assert_eq!(verdict == SNAPLEN, passes, "network header at {network}");
            assert!(verdict == SNAPLEN || verdict == 0);
        }
    }

    #[test]
    fn ports_are_found_behind_every_header() {
        let wanted = [tcp(80, 1_000), tcp(1_000, 443)];
        let other = tcp(81, 82);
        for segment in wanted.iter().chain([&other]) {
            let passes = *segment != other;
            let ports = &[80, 443];
            check(ports, ETHERTYPE_IPV4, &ipv4(0, 0, 6, segment), passes);
            check(ports, ETHERTYPE_IPV4, &ipv4(40, 0x4000, 6, segment), passes);
            check(ports, ETHERTYPE_IPV4, &ipv4(0, 0, 17, segment), false);
            check(ports, ETHERTYPE_IPV6, &ipv6(&[], 6, segment), passes);
            let all = [(0, 8), (60, 24), (44, 8), (51, 12)];
            for count in 1..4 {
                let packet = ipv6(&all[..count], 6, segment);
                check(ports, ETHERTYPE_IPV6, &packet, passes);
            }
            check(
                ports,
                ETHERTYPE_IPV6,
                &ipv6(&[(51, 24), (43, 16)], 6, segment),
                passes,
            );
            check(ports, ETHERTYPE_IPV6, &ipv6(&[(0, 8)], 17, segment), false);
            // Without ports everything that is TCP passes.
            check(&[], ETHERTYPE_IPV4, &ipv4(0, 0, 6, segment), true);
            check(&[], ETHERTYPE_IPV6, &ipv6(&[(0, 8)], 6, segment), true);
        }
    }

    #[test]
    fn in_doubt_a_packet_passes() {
        let ports = &[80];
        let other = tcp(81, 82);
        check(ports, ETHERTYPE_IPV4, &ipv4(0, 0x2001, 6, &other), true);
        check(ports, ETHERTYPE_IPV4, &ipv4(0, 0x2001, 17, &other), false);
        check(ports, ETHERTYPE_VLAN, &other, true);
        check(ports, ETHERTYPE_QINQ, &other, true);
        check(ports, ETHERTYPE_IPV6, &ipv6(&[(0, 8); 5], 6, &other), true);
        let mut later_fragment = ipv6(&[(44, 8)], 6, &other);
        later_fragment[43] = 8;
        check(ports, ETHERTYPE_IPV6, &later_fragment, true);
    }

    #[test]
    fn what_is_no_tcp_stays_out() {
        for protocol in [0x0806, 0x88cc, 0] {
            check(&[], protocol, &ipv4(0, 0, 6, &tcp(80, 80)), false);
        }
        // Every prefix of the headers: too short to tell, so no TCP.
        let packet = ipv6(&[(0, 8)], 6, &tcp(80, 80));
        for len in 0..50 {
            check(&[80], ETHERTYPE_IPV6, &packet[..len], false);
        }
    }

    #[test]
    fn loopback_packets_pass_when_they_leave() {
        let packet = ipv4(0, 0, 6, &tcp(80, 80));
        for (hardware, kind, passes) in [
            (libc::ARPHRD_LOOPBACK, libc::PACKET_OUTGOING, true),
            (libc::ARPHRD_LOOPBACK, 0, false),
            (ETHERNET, libc::PACKET_OUTGOING, true),
            (ETHERNET, 0, true),
        ] {
            let meta = Meta {
                hardware,
                kind,
                protocol: ETHERTYPE_IPV4,
            };
            let verdict = run(&program(0, &[80], SNAPLEN), &packet, meta);
            assert_eq!(verdict == SNAPLEN, passes, "{hardware} {kind}");
        }
    }

    #[test]
    fn the_largest_filter_is_one_the_kernel_takes() {
        let ports: Vec<u16> = (1..=MAX_PORTS as u16).collect();
        let program = program(14, &ports, SNAPLEN);
        // BPF_MAXINSNS.
        assert!(program.len() <= 4_096, "{}", program.len());
        let last = ipv4(0, 0, 6, &tcp(9_999, MAX_PORTS as u16));
        check(&ports, ETHERTYPE_IPV4, &last, true);
    }
}
