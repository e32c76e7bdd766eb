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

    // Loopback devices show every packet twice: leave out the sender's copy.
    let not_loopback = program.label();
    program.load_extra(libc::SKF_AD_HATYPE);
    program.jump_unless_equal(u32::from(libc::ARPHRD_LOOPBACK), not_loopback);
    program.load_extra(libc::SKF_AD_PKTTYPE);
    program.jump_if_equal(u32::from(libc::PACKET_OUTGOING), drop);
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
pub(super) fn nothing() -> Vec<Instruction> {
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
