//! The network block device protocol (fixed newstyle, structured replies, `base:allocation`), with threads and blocking
//! sockets: a client ([`NbdDisk`]) and a [`Server`].
//!
//! Each connection of the client has a thread that reads replies and hands them to those who wait, so that many requests of many
//! threads are under way at once. What a server says is taken for hostile: lengths are compared with what was asked for
//! before anything is allocated, and the first reply that breaks the protocol ends the connection. Every wait has a limit.

mod assembly;
mod connection;
mod disk;
mod handshake;
mod server;
mod stream;
mod tls;
mod url;
mod wire;

use std::time::Duration;

pub use disk::NbdDisk;
pub use server::{
    Context, Device, Export, Handle, Listen, ReadOnly, Server, ServerOptions, Statistics, Writable,
    serve_bytes,
};
pub use tls::{Clients, TlsServer};
pub use url::NbdUrl;

/// Limits of a connection.
#[derive(Debug, Clone, Copy)]
pub struct NbdOptions {
    /// How long connecting and each step of the negotiation may take.
    pub connect_timeout: Duration,
    /// How long a reply may take. Flushing may take ten times as long.
    pub reply_timeout: Duration,
    /// Connections to a server that says that several are safe.
    pub connections_max: usize,
}

impl Default for NbdOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            reply_timeout: Duration::from_secs(60),
            connections_max: 4,
        }
    }
}
