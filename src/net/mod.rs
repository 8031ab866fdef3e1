//! The outside: names, addresses and the sockets that reach them.

pub mod resolver;
