//! Blocks of version 1, as the first archives have them: turned into today's when they are loaded.

mod records;
mod upgrade;

pub(crate) use upgrade::upgrade;
