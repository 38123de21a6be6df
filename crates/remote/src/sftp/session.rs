//! One connection: many threads send requests, one thread hands each answer to whom it is for.
//!
//! What always holds: a request is sent once; whoever waits hears either the answer or that the connection is lost, at the
//! latest when nothing was answered for [`ANSWER_TIMEOUT`]. A session that is lost stays lost.

use std::collections::HashMap;
use std::io::Write;
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::input::{Greeting, greeting_of, message_of};
use super::ssh::{Listener, Refused, Ssh};
use super::wire::{self, Answer, Fields, Message, kind, status};

/// How long an answer may take: a server may sync a large file before it answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);
/// How long it may take until the server speaks: somebody may have to touch a key.
const GREETING_TIMEOUT: Duration = Duration::from_secs(60);
/// How long ssh's last words are waited for.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Data in one message, in bytes: what every server takes, and what OpenSSH takes at most.
const DATA_BYTES: u64 = 32 << 10;
const DATA_BYTES_MAX: u64 = 255 << 10;

/// Why an answer does not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost(pub(super) String);

type Heard = Result<(u32, Answer), Lost>;

/// Who waits for which answer; and why no more will come, if so.
#[derive(Default)]
struct Waiting {
    by_number: HashMap<u32, Sender<Heard>>,
    lost: Option<Lost>,
}

impl Waiting {
    fn lose(&mut self, why: &str) {
        let lost = self.lost.get_or_insert_with(|| Lost(why.to_owned())).clone();
        for (_, waiter) in self.by_number.drain() {
            // One who waits no longer needs not hear it.
            let _ = waiter.send(Err(lost.clone()));
        }
    }
}

/// What a server can do beyond the standard, and how much it takes at once.
#[derive(Debug, Clone)]
pub(super) struct Abilities {
    names: Vec<String>,
    pub(super) read_bytes_max: u64,
    pub(super) write_bytes_max: u64,
}

impl Abilities {
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }
}

/// A connection to the SFTP server of a host.
pub(super) struct Session {
    input: Mutex<Option<ChildStdin>>,
    child: Mutex<Child>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU32,
    pub(super) abilities: Abilities,
    /// Whether it cannot sync folders: that was tried.
    pub(super) syncs_no_folders: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

impl Session {
    /// Connects, and asks what the server can do.
    pub(super) fn connect(ssh: &Ssh) -> Result<Self, Refused> {
        let mut child = ssh.start()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut input), Some(mut output), Some(errors)) = pipes else {
            return Err(Refused::ForGood("the program ssh has no pipes".to_owned()));
        };
        let listener = Listener::default();
        let ended = listener.listen(errors);
        let mut greeting = Message::new(kind::INIT, 3).finish();
        // A write that fails is told by what is read.
        let _ = input.write_all(&std::mem::take(&mut greeting));
        let (sender, greeted) = mpsc::channel();
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let (shared, said) = (Arc::clone(&waiting), listener.clone());
        std::thread::spawn(move || {
            // Whoever connects has given up if it does not take it.
            let _ = sender.send(greeting_of(&mut output));
            let why = hand_out(&mut output, &shared);
            let last = said.said().last();
            locked(&shared).lose(&format!("{why}; ssh said: {last}"));
        });
        let names = match greeted.recv_timeout(GREETING_TIMEOUT) {
            Ok(Greeting::Abilities(names)) => names,
            outcome => {
                let _ = child.kill();
                let _ = ended.recv_timeout(LAST_WORDS);
                let _ = child.wait();
                return Err(match outcome {
                    Ok(Greeting::Babble) => ssh.babble(),
                    Ok(_) => ssh.diagnose(&listener.said()),
                    Err(_) => Refused::InPassing("the server has not spoken for a minute".to_owned()),
                });
            }
        };
        let abilities = Abilities { names, read_bytes_max: DATA_BYTES, write_bytes_max: DATA_BYTES };
        let mut session = Self {
            input: Mutex::new(Some(input)),
            child: Mutex::new(child),
            waiting,
            next: AtomicU32::new(1),
            abilities,
            syncs_no_folders: AtomicBool::new(false),
        };
        session.ask_limits();
        Ok(session)
    }

    /// How much the server takes at once, where it tells.
    fn ask_limits(&mut self) {
        if !self.abilities.has("limits@openssh.com") {
            return;
        }
        let answer = self.exchange().ask(kind::EXTENDED, |message| {
            message.bytes(b"limits@openssh.com");
        });
        if let Ok(Answer::Extended(bytes)) = answer {
            let mut fields = Fields(&bytes);
            let mut bounded = || fields.long().unwrap_or(0).clamp(DATA_BYTES, DATA_BYTES_MAX);
            let (_, read, write) = (bounded(), bounded(), bounded());
            (self.abilities.read_bytes_max, self.abilities.write_bytes_max) = (read, write);
        }
    }

    /// Whether it is of no use any more.
    pub(super) fn is_lost(&self) -> bool {
        locked(&self.waiting).lost.is_some()
    }

    /// A conversation of one thread.
    pub(super) fn exchange(&self) -> Exchange<'_> {
        let (sender, receiver) = mpsc::channel();
        Exchange { session: self, sender, receiver, outstanding: 0 }
    }

    /// Sends a request; `answered_to` hears the answer, if anybody is to hear it.
    fn send(
        &self,
        kind: u8,
        answered_to: Option<&Sender<Heard>>,
        fill: impl FnOnce(&mut Message),
    ) -> Result<u32, Lost> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut message = Message::new(kind, number);
        fill(&mut message);
        {
            let mut waiting = locked(&self.waiting);
            if let Some(lost) = &waiting.lost {
                return Err(lost.clone());
            }
            if let Some(sender) = answered_to {
                waiting.by_number.insert(number, sender.clone());
            }
        }
        let written = match locked(&self.input).as_mut() {
            Some(input) => input.write_all(&message.finish()).and_then(|()| input.flush()),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        match written {
            Ok(()) => Ok(number),
            Err(error) => Err(self.lose(&format!("the connection broke ({error})"))),
        }
    }

    /// Sends a request whose answer does not matter.
    pub(super) fn tell(&self, kind: u8, fill: impl FnOnce(&mut Message)) {
        let _ = self.send(kind, None, fill);
    }

    fn lose(&self, why: &str) -> Lost {
        let mut waiting = locked(&self.waiting);
        waiting.lose(why);
        waiting.lost.clone().unwrap_or_else(|| Lost(why.to_owned()))
    }

    /// Ends the connection.
    pub(super) fn end(&self) {
        self.lose("the connection was ended");
        let mut child = locked(&self.child);
        // Who writes may wait for a pipe that nobody empties, so the process goes first.
        let _ = child.kill();
        let _ = child.wait();
        locked(&self.input).take();
    }
}

/// Hands out answers until there are no more; why.
fn hand_out(output: &mut ChildStdout, waiting: &Mutex<Waiting>) -> String {
    loop {
        let message = match message_of(output) {
            Ok(message) => message,
            Err(why) => return why.to_string(),
        };
        let Some((number, answer)) = wire::answer(&message) else {
            return "the server sent what is no answer".to_owned();
        };
        // What nobody waits for is the answer to a closing.
        if let Some(waiter) = locked(waiting).by_number.remove(&number) {
            let _ = waiter.send(Ok((number, answer)));
        }
    }
}

/// A conversation of one thread: requests in flight, and their answers in any order.
pub(super) struct Exchange<'a> {
    session: &'a Session,
    sender: Sender<Heard>,
    receiver: Receiver<Heard>,
    outstanding: usize,
}

impl Exchange<'_> {
    /// Sends a request; its number.
    pub(super) fn send(&mut self, kind: u8, fill: impl FnOnce(&mut Message)) -> Result<u32, Lost> {
        let number = self.session.send(kind, Some(&self.sender), fill)?;
        self.outstanding += 1;
        Ok(number)
    }

    /// How many answers are still to come.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// The next answer.
    pub(super) fn receive(&mut self) -> Heard {
        self.outstanding = self.outstanding.saturating_sub(1);
        match self.receiver.recv_timeout(ANSWER_TIMEOUT) {
            Ok(heard) => heard,
            Err(_) => {
                self.session.end();
                Err(Lost(format!("no answer came for {} seconds", ANSWER_TIMEOUT.as_secs())))
            }
        }
    }

    /// Sends a request and waits for its answer. No other may be in flight.
    pub(super) fn ask(&mut self, kind: u8, fill: impl FnOnce(&mut Message)) -> Result<Answer, Lost> {
        let number = self.send(kind, fill)?;
        match self.receive()? {
            (answered, answer) if answered == number => Ok(answer),
            _ => Err(Lost("an answer to another request came".to_owned())),
        }
    }
}

/// Whether a status says that it was done.
pub(super) fn is_done(answer: &Answer) -> bool {
    matches!(answer, Answer::Status(status::OK, _))
}
