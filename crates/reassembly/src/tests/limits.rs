//! Every limit reached, and hostile input.
