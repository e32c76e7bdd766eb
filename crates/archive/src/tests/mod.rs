//! What an archive promises, tested from outside: written is read back, damage is found, a crash
//! costs what the documentation says.

mod crafted;
pub(crate) mod crash;
mod damage;
mod dictionaries;
pub(crate) mod encrypted;
mod round_trip;
pub(crate) mod samples;
mod unread;
mod versions;
