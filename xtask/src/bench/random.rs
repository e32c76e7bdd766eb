//! Numbers without a pattern.

/// The same ones from the same seed, which is not 0 (xorshift64; Marsaglia, "Xorshift RNGs", 2003).
pub(super) fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(seed), |&last| {
        let mut next = last;
        next ^= next << 13;
        next ^= next >> 7;
        next ^= next << 17;
        Some(next)
    })
    .skip(1)
}
