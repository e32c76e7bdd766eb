//! Sets of segments, tested from outside.

mod copying;
mod crash;
mod opening;
mod rolling;

use std::path::Path;

use crate::tests::samples::{Sample, noise, shop};
use crate::{Limits, WriterOptions};

/// Small blocks and pages, so that every file has several.
fn small() -> Limits {
    Limits {
        block: 8 << 10,
        group: 16 << 10,
        dictionary: 1 << 10,
        learned_blocks: 8,
        ..Limits::default()
    }
}

fn writer_options() -> WriterOptions {
    let mut options = WriterOptions::new(crate::tests::samples::provenance());
    options.limits = small();
    options
}

/// Exchanges of the shop, every tenth with a body in a body block.
fn samples(range: std::ops::Range<u64>) -> Vec<Sample> {
    let mut samples: Vec<_> = range.clone().map(shop).collect();
    for (n, sample) in range.zip(&mut samples) {
        if n % 10 == 0 {
            let body = &mut sample.exchange.response.as_mut().unwrap().body;
            body.tail = noise(5_000, n);
            body.len = 5_000;
        }
    }
    samples
}

/// The names in a folder, sorted, but for the lock.
fn names(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != ".tapedeck-set").collect();
    names.sort();
    names
}
