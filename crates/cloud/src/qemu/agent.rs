//! The guest agent: it brings the guest's file systems to rest for a moment.
//!
//! The protocol is that of `qga/qapi-schema.json` of QEMU: lines of JSON without greeting and without ids, so what an
//! earlier client left in the line is skipped with `guest-sync-delimited`. An agent has no limit of its own: a guest
//! that nobody thaws stays frozen, so whoever freezes thaws, whatever happens.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::channel::{AgentChannel, broken};
use super::guardian::{Guardian, GuardianProgram};
use super::lines::Lines;
use crate::{Error, Result};

/// Marks the beginning of a line that belongs to us, in both directions.
const DELIMITER: u8 = 0xff;
/// How long the answer to a thaw is waited for, and how often it is asked for.
const THAW_LIMIT: Duration = Duration::from_secs(10);
const THAW_TRIES: usize = 3;

/// A connection to the agent in a guest.
#[derive(Debug)]
pub struct Agent {
    channel: Box<dyn AgentChannel>,
    /// The socket, where there is one that a guardian can connect to.
    path: Option<PathBuf>,
}

impl Agent {
    /// Connects to the socket behind which the agent listens, and waits until it answers.
    ///
    /// # Errors
    /// The socket cannot be reached, or nobody answers in time: the guest runs no agent, or hangs.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self> {
        let channel = Box::new(AgentSocket { lines: Lines::connect(path, limit)?, syncs: 0 });
        Ok(Self { path: Some(path.to_owned()), ..Self::over(channel, limit)? })
    }

    /// An agent behind a channel, once it answers.
    pub(crate) fn over(channel: Box<dyn AgentChannel>, limit: Duration) -> Result<Self> {
        let mut agent = Self { channel, path: None };
        agent.channel.synchronise(limit)?;
        Ok(agent)
    }

    fn call(&mut self, command: &str, limit: Duration) -> Result<Value> {
        let mut answer = self.channel.call(command, limit)?;
        let error = &answer["error"];
        if error.is_object() {
            let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            return Err(Error::Command {
                peer: self.channel.peer().to_owned(),
                command: command.to_owned(),
                class: text("class"),
                description: text("desc"),
            });
        }
        Ok(answer["return"].take())
    }

    /// Whether the guest's file systems are frozen.
    ///
    /// # Errors
    /// The agent does not answer in time, or does not know the command.
    pub fn is_frozen(&mut self, limit: Duration) -> Result<bool> {
        Ok(self.call("guest-fsfreeze-status", limit)? == "frozen")
    }

    /// Thaws; returns the number of file systems. Tried several times, because nobody else will.
    ///
    /// # Errors
    /// Those of the last try.
    pub fn thaw(&mut self) -> Result<u64> {
        let mut tries = 1;
        loop {
            // After a late answer the line holds what is not ours.
            let synchronised = if tries > 1 { self.channel.synchronise(THAW_LIMIT) } else { Ok(()) };
            match synchronised.and_then(|()| self.call("guest-fsfreeze-thaw", THAW_LIMIT)) {
                Ok(count) => return Ok(count.as_u64().unwrap_or(0)),
                Err(error) if tries == THAW_TRIES => return Err(error),
                Err(_) => tries += 1,
            }
        }
    }

    /// Writes everything out and freezes the guest's file systems, for `limit` at most, the freezing included. With a
    /// guardian, and an agent that is reached through a socket, the guest is thawed even if this process is killed.
    ///
    /// # Errors
    /// The agent refuses or does not answer in time, or the guardian cannot be started. The guest is thawed then.
    pub fn freeze(mut self, limit: Duration, guardian: Option<&GuardianProgram>) -> Result<Frozen> {
        let guardian = guardian.zip(self.path.as_ref());
        let guardian = guardian.map(|(program, path)| Guardian::start(program, path)).transpose()?;
        let started = Instant::now();
        let frozen = self.call("guest-fsfreeze-freeze", limit);
        if let Err(error) = frozen.and_then(|count| match count.as_u64() {
            Some(1..) => Ok(()),
            _ => Err(broken(self.channel.peer(), "it froze no file system")),
        }) {
            // It may be about to freeze all the same; a thaw of what is not frozen does no harm.
            if self.thaw().is_ok() {
                guardian.into_iter().for_each(Guardian::dismiss);
            }
            return Err(error);
        }
        let (stop, stopped) = channel::<()>();
        let left = limit.saturating_sub(started.elapsed());
        let thread = std::thread::Builder::new()
            .name("thaw".to_owned())
            .spawn(move || {
                // An error here means that whoever froze is gone: just as good a reason to thaw.
                let in_time =
                    !matches!(stopped.recv_timeout(left), Err(std::sync::mpsc::RecvTimeoutError::Timeout));
                let thawed = self.thaw();
                let frozen_for = started.elapsed();
                // The agent takes one client at a time, and the guardian may have to be the next.
                drop(self);
                if thawed.is_ok() {
                    guardian.into_iter().for_each(Guardian::dismiss);
                }
                Thawed { in_time, frozen_for, thawed }
            })
            .map_err(|source| Error::io("guest agent", "start a thread for", source))?;
        Ok(Frozen { stop, thread })
    }
}

/// The socket behind which the agent listens.
#[derive(Debug)]
struct AgentSocket {
    lines: Lines,
    syncs: u64,
}

impl AgentSocket {
    fn late(&self, command: &str, limit: Duration) -> Error {
        Error::TimedOut { peer: self.lines.peer().to_owned(), waited_for: command.to_owned(), limit }
    }
}

impl AgentChannel for AgentSocket {
    fn peer(&self) -> &str {
        self.lines.peer()
    }

    fn synchronise(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        self.syncs += 1;
        let id = u64::from(std::process::id()) << 16 | self.syncs & 0xffff;
        let command = json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } });
        let mut text = vec![DELIMITER];
        text.extend_from_slice(command.to_string().as_bytes());
        text.push(b'\n');
        self.lines.send(&text, &[])?;
        // What comes before our answer is another client's.
        while self.lines.skip_through(DELIMITER, deadline)? {
            if self.lines.next(deadline)?.is_some_and(|answer| answer["return"] == id) {
                return Ok(());
            }
        }
        Err(self.late("guest-sync-delimited", limit))
    }

    fn call(&mut self, command: &str, limit: Duration) -> Result<Value> {
        let text = format!("{}\n", json!({ "execute": command }));
        self.lines.send(text.as_bytes(), &[])?;
        let answer = self.lines.next(Instant::now() + limit)?;
        answer.ok_or_else(|| self.late(command, limit))
    }
}

/// A frozen guest. It is thawed when its time is up, when this is dropped, or when it is told to.
#[derive(Debug)]
pub struct Frozen {
    stop: Sender<()>,
    thread: JoinHandle<Thawed>,
}

/// How a freeze ended.
#[derive(Debug)]
pub struct Thawed {
    /// Whether it lasted until it was told to end.
    pub in_time: bool,
    /// How long the guest was frozen, the freezing and the thawing included.
    pub frozen_for: Duration,
    /// The number of file systems, or why the guest could not be thawed.
    pub thawed: Result<u64>,
}

impl Frozen {
    /// Thaws.
    #[must_use]
    pub fn thaw(self) -> Thawed {
        // The thread may have thawed by itself.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_else(|_| Thawed {
            in_time: false,
            frozen_for: Duration::ZERO,
            thawed: Err(Error::Protocol {
                peer: "guest agent".to_owned(),
                what: "the thread that thaws has died".to_owned(),
            }),
        })
    }
}
