//! What the fuzz targets share: an allocator that counts, so that a target which takes more memory
//! than it may is broken. (libFuzzer's own `-malloc_limit_mb` needs a sanitizer.)

use peak_alloc::PeakAlloc;
use tapedeck_fuzzing::Target;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The target of that name.
///
/// # Panics
/// Where there is none.
pub fn named(name: &str) -> &'static Target {
    Target::named(name).unwrap_or_else(|| panic!("no target {name}"))
}

/// Feeds a target.
pub fn feed(target: &Target, bytes: &[u8]) {
    target.feed(bytes, &ALLOCATOR);
}

/// Makes a program of libFuzzer of a target.
#[macro_export]
macro_rules! fuzz {
    ($name:literal) => {
        static TARGET: std::sync::LazyLock<&tapedeck_fuzzing::Target> =
            std::sync::LazyLock::new(|| $crate::named($name));

        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::feed(&TARGET, bytes));
    };
}
