//! The BPF object: `cargo xtask ebpf` builds it from `capture-ebpf` and puts it here.

/// The object, aligned as an ELF file of 64 bits must be.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!("capture.bpf.o");

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

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
