//! A server of the network block device protocol: fixed newstyle, structured replies, `base:allocation`; with threads and
//! blocking sockets. `docs/nbd.md` says what is spoken and what the limits are.
//!
//! Each connection has a thread that reads requests and some that serve them, started as they are needed; replies go out in
//! the order in which they are ready. What a client says is taken for hostile:
//!
//! - No memory is taken for what a client announces, only for what a worker serves at the moment (a piece of a request)
//!   and for the pieces of writes that have come and wait. Both are bounded for each connection, so that none takes from
//!   another, and the number of connections is bounded.
//! - The handshake as a whole has a time limit; afterwards a client may be silent for as long as it likes, but a reply
//!   that it does not take in time ends its connection.
//! - An error or a panic of a device is answered as an error of the request, and nothing else happens.

mod device;
mod guard;
mod handshake;
mod listener;
mod outbox;
mod queue;
mod serve;
mod session;
mod statistics;
mod work;

use std::sync::Arc;
use std::time::Duration;

pub use device::{Context, Device, ReadOnly, Writable};
pub use listener::Listen;
pub use serve::{Handle, Server};
pub use session::serve_bytes;
pub use statistics::Statistics;

use super::TlsServer;

/// A disk under a name.
#[derive(Clone)]
pub struct Export {
    /// What clients ask for. When there is one export, the empty name means it as well.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// The disk.
    pub device: Arc<dyn Device>,
}

/// Limits of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at once; more are closed as soon as they come.
    pub connections_max: usize,
    /// Requests of one connection that are served at once.
    pub workers: usize,
    /// How long a client may take from connecting to its first request being possible.
    pub handshake_timeout: Duration,
    /// How long a client may leave a reply where it is.
    pub reply_timeout: Duration,
    /// How long requests under way may take to finish when the server stops.
    pub stop_timeout: Duration,
    /// Demands TLS of every client.
    pub tls: Option<TlsServer>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections_max: 32,
            workers: 16,
            handshake_timeout: Duration::from_secs(15),
            reply_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(10),
            tls: None,
        }
    }
}
