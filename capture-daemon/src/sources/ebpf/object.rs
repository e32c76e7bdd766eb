//! The BPF object: `cargo xtask ebpf` builds it from `capture-ebpf` and puts it here.

/// The object, aligned as an ELF file of 64 bits must be.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!("capture.bpf.o");

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::OBJECT;

    /// The code of the section of that name (ELF, 64 bits, little endian).
    fn section(name: &str) -> &'static [u8] {
        let number = |at: usize, len: usize| {
            let bytes = OBJECT[at..at + len].iter().rev();
            bytes.fold(0, |all, byte| all << 8 | usize::from(*byte))
        };
        let (headers, size, count) = (number(0x28, 8), number(0x3a, 2), number(0x3c, 2));
        let header = |index: usize| headers + index * size;
        let content = |at: usize| {
            let offset = number(at + 0x18, 8);
            &OBJECT[offset..offset + number(at + 0x20, 8)]
        };
        let names = content(header(number(0x3e, 2)));
        (0..count)
            .map(header)
            .find(|at| names[number(*at, 4)..].starts_with(format!("{name}\0").as_bytes()))
            .map(content)
            .unwrap()
    }

    /// A program of these kinds that returns anything but 1 drops the packet, or refuses the socket. Every way out of ours
    /// must load the constant right before.
    #[test]
    fn every_way_out_lets_the_packet_live() {
        const EXIT: u8 = 0x95;
        const MOVE_TO_R0: [&[u8]; 2] = [&[0xb7, 0, 0, 0, 1, 0, 0, 0], &[0xb4, 0, 0, 0, 1, 0, 0, 0]];
        for name in [
            "cgroup_skb/ingress",
            "cgroup_skb/egress",
            "cgroup/sock_create",
        ] {
            let instructions: Vec<_> = section(name).chunks_exact(8).collect();
            let exits: Vec<_> = (0..instructions.len())
                .filter(|at| instructions[*at][0] == EXIT)
                .collect();
            assert!(!exits.is_empty(), "{name}");
            for at in exits {
                let before = instructions[at - 1];
                assert!(
                    MOVE_TO_R0.contains(&before),
                    "{name}: {before:02x?} before {at}"
                );
            }
        }
    }

    /// The object in the repository must be built from the sources in the repository. The lock
    /// file beside it has the hashes of both; `cargo xtask ebpf --check` looks for new files too.
    #[test]
    fn the_object_is_built_from_these_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let check = Command::new("sha256sum")
            .args(["--check", "--strict", "--quiet"])
            .arg("capture-daemon/src/sources/ebpf/capture.bpf.lock")
            .current_dir(root)
            .output()
            .unwrap();
        assert!(
            check.status.success(),
            "changed since the object was built (run `cargo xtask ebpf`):\n{}{}",
            String::from_utf8_lossy(&check.stdout),
            String::from_utf8_lossy(&check.stderr)
        );
    }
}
