//! Links between nodes of one process: real sockets on loopback, with and without TLS.

mod fake;
mod refusals;
mod sessions;
mod sites;
mod wire;
