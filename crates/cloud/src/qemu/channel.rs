//! The way to a monitor and to a guest's agent: QEMU's own sockets, or those that somebody else holds for us.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::lines::Lines;
use super::qmp::{Qmp, QmpOptions};
use crate::{Error, Result};

/// A way to a monitor. Messages are those of QMP.
pub(crate) trait Channel: Debug + Send {
    /// The name of the other side, for messages.
    fn peer(&self) -> &str;

    /// Number of QEMU's process, where the channel tells it.
    fn process(&self) -> Option<u32>;

    /// Sends a command. Its answer comes with [`Channel::next`] and has this number as its `id`.
    fn send(
        &mut self,
        id: u64,
        command: &str,
        arguments: &Value,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<()>;

    /// The next answer or event; `None` when none came until the deadline.
    fn next(&mut self, deadline: Instant) -> Result<Option<Value>>;

    /// Whether what QEMU told before it answered comes before the answer.
    fn keeps_order(&self) -> bool;

    /// Leaves this connection and makes another one.
    fn renew(&self, options: &QmpOptions) -> Result<Qmp>;

    /// The guest's agent, where it is behind the same channel.
    fn agent(&self) -> Option<Result<Box<dyn AgentChannel>>>;
}

/// A way to a guest's agent.
pub(crate) trait AgentChannel: Debug + Send {
    /// The name of the other side, for messages.
    fn peer(&self) -> &str;

    /// Leaves out what belongs to earlier calls.
    fn synchronise(&mut self, limit: Duration) -> Result<()>;

    /// Runs a command without arguments; its answer is an object with `return` or `error`.
    fn call(&mut self, command: &str, limit: Duration) -> Result<Value>;
}

/// The error for a peer that does not keep to its protocol.
pub(crate) fn broken(peer: &str, what: impl Into<String>) -> Error {
    Error::Protocol { peer: peer.to_owned(), what: what.into() }
}

/// QEMU's own socket.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    lines: Lines,
}

impl Socket {
    pub(super) fn new(path: &Path, lines: Lines) -> Self {
        Self { path: path.to_owned(), lines }
    }
}

impl Channel for Socket {
    fn peer(&self) -> &str {
        self.lines.peer()
    }

    fn process(&self) -> Option<u32> {
        let credentials = rustix::net::sockopt::socket_peercred(self.lines.socket()).ok()?;
        u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
    }

    fn send(
        &mut self,
        id: u64,
        command: &str,
        arguments: &Value,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let mut text =
            serde_json::json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        text.push('\n');
        self.lines.send(text.as_bytes(), descriptors)
    }

    fn next(&mut self, deadline: Instant) -> Result<Option<Value>> {
        self.lines.next(deadline)
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn renew(&self, options: &QmpOptions) -> Result<Qmp> {
        // A monitor serves one client: the old connection has to go first.
        let _ = self.lines.socket().shutdown(std::net::Shutdown::Both);
        Qmp::connect(&self.path, options)
    }

    fn agent(&self) -> Option<Result<Box<dyn AgentChannel>>> {
        None
    }
}
