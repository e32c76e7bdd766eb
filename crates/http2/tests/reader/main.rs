//! Whole conversations through the reader: what it says, however they are cut, and whatever is lost.

mod cases;
mod differential;
mod generator;
mod limits;
mod log;
mod loss;
mod wire;
