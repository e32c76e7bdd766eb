//! What the kernel says about the programs.

use std::num::NonZeroUsize;

use tapedeckd::sources::ebpf::Ebpf;

use crate::support::{ebpf_options, or_skip};

/// The verifier walks every path. Its limit is a million instructions, and older kernels walk
/// more of them; a program near the limit here would not load there.
///
/// Most of the walk are the ten sizes of records, each of which ends every way through the headers and
/// the rules: 62,000 instructions for what leaves and 71,000 for what arrives, on Linux 6.18. The bound
/// leaves room for another compiler, and none for another loop.
#[test]
fn programs_are_far_from_the_verifiers_limit() {
    let mut options = ebpf_options(&[80]);
    options.streams = NonZeroUsize::new(4).unwrap();
    let Some(_source) = or_skip(Ebpf::open(&options)) else {
        return;
    };
    let mut programs = Vec::new();
    for program in aya::programs::loaded_programs().filter_map(Result::ok) {
        let Some(name) = program
            .name_as_str()
            .filter(|name| name.starts_with("tapedeck_"))
        else {
            continue;
        };
        let verified = program.verified_instruction_count().unwrap();
        let instructions = program.size_translated().unwrap() / 8;
        println!("{name}: {instructions} instructions, {verified} walked by the verifier");
        programs.push((name.to_owned(), instructions, verified));
    }
    for (name, instructions, verified) in &programs {
        assert!(*instructions < 2_000, "{name}: {instructions}");
        assert!(*verified < 100_000, "{name}: {verified}");
    }
    assert!(programs.len() >= 2);
}
