//! `cargo xtask manifests`: the resource definitions in the chart, from the types; the plain
//! manifests, from the chart. Both are committed, and tests refuse stale ones.

#[cfg(test)]
mod others;
mod render;
#[cfg(test)]
mod tests;

pub(crate) use render::Manifests;
