//! A thin client of the QEMU machine protocol.
//!
//! Commands and answers are JSON values, one on a line; the protocol is specified in `docs/interop/qmp-spec` of QEMU.
//! Only what is asked for is looked at, so that fields of newer versions do no harm. A monitor serves one client at a
//! time: a second one connects, and gets no greeting until the first has left.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::channel::{AgentChannel, Channel, Socket, broken};
use super::lines::Lines;
use crate::{Error, Result};

/// Events that are kept until somebody asks for them.
const EVENTS_MAX: usize = 4096;

/// Answers to a client before this one that are passed over. QEMU keeps a few commands in its queue, and when whoever gave
/// them has been killed, whoever comes next gets the answers.
const LATE_ANSWERS_MAX: usize = 64;

/// What the names of jobs begin with that are made to see their events.
const PROBE: &str = "leeward-probe-";
/// A node that nobody makes.
const NO_NODE: &str = "leeward-nowhere";
/// How long its events may take.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// The number of a client's first command: random, so that nobody takes an answer to the client before for an own one.
fn first_id() -> u64 {
    let mut random = [0; 8];
    // Without randomness clients are told apart by time.
    if getrandom::fill(&mut random).is_err() {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        random = (time.as_nanos() as u64).to_le_bytes();
    }
    // Below what a number in JSON can be everywhere.
    u64::from_le_bytes(random) >> 12
}

/// Limits of a connection.
#[derive(Debug, Clone, Copy)]
pub struct QmpOptions {
    /// How long to wait for the greeting.
    pub greeting_limit: Duration,
    /// How long an answer may take. A command that waits for the disks to come to rest can take long.
    pub answer_limit: Duration,
}

impl Default for QmpOptions {
    fn default() -> Self {
        Self { greeting_limit: Duration::from_secs(10), answer_limit: Duration::from_secs(60) }
    }
}

/// Something that QEMU tells by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct QmpEvent {
    /// Its name: `JOB_STATUS_CHANGE`, `BLOCK_IO_ERROR` …
    pub name: String,
    /// What belongs to it; `null` for nothing.
    pub data: Value,
}

/// Version of a QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QmpVersion {
    /// 7 in 7.2.22.
    pub major: u64,
    /// 2 in 7.2.22.
    pub minor: u64,
    /// 22 in 7.2.22.
    pub micro: u64,
}

/// Messages for a client before that may come in front of the greeting, at most.
const LEFT_BEFORE_MAX: usize = 1000;

/// A connection to the monitor of a machine.
#[derive(Debug)]
pub struct Qmp {
    channel: Box<dyn Channel>,
    options: QmpOptions,
    version: QmpVersion,
    next_id: u64,
    events: VecDeque<QmpEvent>,
    events_lost: bool,
    late_answers: usize,
    /// Why no further command can be sent: an answer is outstanding, or the connection broke.
    over: Option<String>,
}

impl Qmp {
    /// Connects to a monitor's Unix socket and leaves the negotiation.
    ///
    /// # Errors
    /// The socket cannot be reached, nobody answers in time (another client may be connected), or what answers is not
    /// a monitor.
    pub fn connect(path: &Path, options: &QmpOptions) -> Result<Self> {
        let mut lines = Lines::connect(path, options.answer_limit)?;
        let greeting = Self::greeting(&mut lines, options)?;
        let number = |name: &str| greeting["QMP"]["version"]["qemu"][name].as_u64();
        let (Some(major), Some(minor), Some(micro)) = (number("major"), number("minor"), number("micro"))
        else {
            return Err(lines.broken("it is not the QMP monitor of a machine".to_owned()));
        };
        let socket = Socket::new(path, lines);
        let mut monitor = Self::over(Box::new(socket), QmpVersion { major, minor, micro }, options);
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// What a monitor sends when its turn has come. A client that was killed may have left an answer to it, or an event of what it
    /// had begun: QEMU gives these to whoever connects next, before the greeting.
    fn greeting(lines: &mut Lines, options: &QmpOptions) -> Result<Value> {
        let deadline = Instant::now() + options.greeting_limit;
        for _ in 0..LEFT_BEFORE_MAX {
            let line = lines.next(deadline)?.ok_or_else(|| Error::Busy {
                peer: lines.peer().to_owned(),
                what: format!(
                    "no greeting within {} s: a monitor serves one client at a time, and another one seems to be \
                     connected — end it, or give the machine a second monitor",
                    options.greeting_limit.as_secs_f32()
                ),
            })?;
            if !["event", "return", "error"].iter().any(|key| line.get(key).is_some()) {
                return Ok(line);
            }
        }
        Err(lines.broken(format!("it sends {LEFT_BEFORE_MAX} messages and no greeting")))
    }

    /// A monitor behind a channel that has left the negotiation.
    pub(crate) fn over(channel: Box<dyn Channel>, version: QmpVersion, options: &QmpOptions) -> Self {
        Self {
            channel,
            options: *options,
            version,
            next_id: first_id(),
            events: VecDeque::new(),
            events_lost: false,
            late_answers: 0,
            over: None,
        }
    }

    /// Whether the connection takes no further command.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// Connects anew, to clean up after an answer that did not come.
    ///
    /// # Errors
    /// Those of [`Qmp::connect`].
    pub fn reconnect(&mut self) -> Result<()> {
        *self = self.channel.renew(&self.options)?;
        Ok(())
    }

    /// As [`Qmp::over`], where the channel does not tell the version.
    pub(crate) fn through(channel: Box<dyn Channel>, options: &QmpOptions) -> Result<Self> {
        let unknown = QmpVersion { major: 0, minor: 0, micro: 0 };
        let mut monitor = Self::over(channel, unknown, options);
        let version = monitor.execute("query-version", json!({}))?;
        let number = |name: &str| version["qemu"][name].as_u64().unwrap_or(0);
        monitor.version =
            QmpVersion { major: number("major"), minor: number("minor"), micro: number("micro") };
        Ok(monitor)
    }

    /// The monitor as messages name it.
    #[must_use]
    pub fn peer(&self) -> &str {
        self.channel.peer()
    }

    /// The guest's agent, where whoever holds the monitor holds the agent too.
    pub(crate) fn agent(&self) -> Option<Result<Box<dyn AgentChannel>>> {
        self.channel.agent()
    }

    /// The version of QEMU.
    #[must_use]
    pub fn version(&self) -> QmpVersion {
        self.version
    }

    /// Number of QEMU's process, as the kernel knows it; `None` when it runs out of sight.
    #[must_use]
    pub fn peer_process(&self) -> Option<u32> {
        self.channel.process()
    }

    /// Runs a command and returns its answer.
    ///
    /// # Errors
    /// QEMU refuses ([`Error::Command`]), does not answer in time, or the connection breaks; after the latter two the
    /// connection takes no further command.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.execute_with(command, arguments, &[])
    }

    /// As [`Qmp::execute`], with file descriptors that QEMU gets a copy of, for `getfd` and `add-fd`.
    ///
    /// # Errors
    /// Those of [`Qmp::execute`].
    pub fn execute_with(
        &mut self,
        command: &str,
        arguments: Value,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Value> {
        if let Some(why) = &self.over {
            return Err(broken(self.peer(), why.clone()));
        }
        let id = self.next_id;
        self.next_id += 1;
        let answer = self.exchange(command, &arguments, id, descriptors);
        if let Err(error) = &answer
            && !error.is_answer()
        {
            self.over = Some(format!("the connection is over since {command}: {error}"));
        }
        answer
    }

    /// Whether a message answers a client that was here before: it has the number of a command, and not of one of ours.
    fn is_late_answer(&mut self, message: &Value) -> bool {
        let is_answer = message.get("return").is_some() || message.get("error").is_some();
        let is_late = is_answer && message["id"].is_u64() && self.late_answers < LATE_ANSWERS_MAX;
        self.late_answers += usize::from(is_late);
        is_late
    }

    fn exchange(
        &mut self,
        command: &str,
        arguments: &Value,
        id: u64,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Value> {
        self.channel.send(id, command, arguments, descriptors)?;
        let deadline = Instant::now() + self.options.answer_limit;
        loop {
            let mut message = self.channel.next(deadline)?.ok_or_else(|| Error::TimedOut {
                peer: self.peer().to_owned(),
                waited_for: command.to_owned(),
                limit: self.options.answer_limit,
            })?;
            if self.keep_event(&mut message) || (message["id"] != id && self.is_late_answer(&message)) {
                continue;
            }
            let error = &message["error"];
            // An error in the text of a command has no id.
            if message["id"] != id && !(error.is_object() && message["id"].is_null()) {
                return Err(broken(
                    self.peer(),
                    format!("it answers something that was not asked: {}", message["id"]),
                ));
            }
            if error.is_object() {
                let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
                return Err(Error::Command {
                    peer: self.peer().to_owned(),
                    command: command.to_owned(),
                    class: text("class"),
                    description: text("desc"),
                });
            }
            return match message.get_mut("return") {
                Some(value) => Ok(value.take()),
                None => Err(broken(self.peer(), "it answers with neither a value nor an error".to_owned())),
            };
        }
    }

    /// Passes a descriptor into a new set; QEMU opens it as `/dev/fdset/SET`. QEMU drops the set once nothing uses it
    /// and no monitor has a client. `opaque` is shown by `query-fdsets`.
    ///
    /// # Errors
    /// Those of [`Qmp::execute`].
    pub fn add_descriptor(&mut self, descriptor: impl AsFd, opaque: &str) -> Result<u64> {
        let answer = self.execute_with("add-fd", json!({ "opaque": opaque }), &[descriptor.as_fd()])?;
        answer["fdset-id"].as_u64().ok_or_else(|| broken(self.peer(), "add-fd names no set".to_owned()))
    }

    /// Passes a descriptor under a name, for the one command that takes it.
    ///
    /// # Errors
    /// Those of [`Qmp::execute`].
    pub fn get_descriptor(&mut self, descriptor: impl AsFd, name: &str) -> Result<()> {
        self.execute_with("getfd", json!({ "fdname": name }), &[descriptor.as_fd()]).map(|_| ())
    }

    /// Runs actions all together or not at all.
    ///
    /// # Errors
    /// Those of [`Qmp::execute`]; then none of them has an effect.
    pub fn transaction(&mut self, actions: &[(&str, Value)]) -> Result<()> {
        let actions: Vec<_> =
            actions.iter().map(|(kind, data)| json!({ "type": kind, "data": data })).collect();
        self.execute("transaction", json!({ "actions": actions })).map(|_| ())
    }

    /// The next event, waiting for it until the deadline.
    ///
    /// # Errors
    /// The connection breaks.
    pub fn next_event(&mut self, deadline: Instant) -> Result<Option<QmpEvent>> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        if let Some(why) = &self.over {
            return Err(broken(self.peer(), why.clone()));
        }
        while self.events.is_empty() {
            let next = self.channel.next(deadline).inspect_err(|error| {
                self.over = Some(format!("the connection is over: {error}"));
            })?;
            let Some(mut message) = next else { return Ok(None) };
            if !self.keep_event(&mut message) && !self.is_late_answer(&message) {
                let error = broken(self.peer(), "it answers something that was not asked".to_owned());
                self.over = Some(error.to_string());
                return Err(error);
            }
        }
        Ok(self.events.pop_front())
    }

    /// Waits until everything that QEMU has told up to now can be had from [`Qmp::next_event`].
    ///
    /// Where answers may overtake events, QEMU is asked for a job that fails at once: it tells of its beginning and its
    /// end, and what it told before that is then here too.
    ///
    /// # Errors
    /// Those of [`Qmp::execute`]; or the events do not come in time.
    pub fn settle(&mut self) -> Result<()> {
        if self.channel.keeps_order() {
            return Ok(());
        }
        let job = format!("{PROBE}{}", self.next_id);
        let options = json!({ "driver": "qcow2", "file": NO_NODE, "size": 0 });
        self.execute("blockdev-create", json!({ "job-id": job, "options": options }))?;
        // The job is expected to fail; what counts is that it ends.
        self.wait_for_job(&job, PROBE_LIMIT).or_else(|error| match error {
            Error::Command { .. } => Ok(()),
            other => Err(other),
        })?;
        let deadline = Instant::now() + PROBE_LIMIT;
        let is_end = |event: &QmpEvent| event.data["id"] == job.as_str() && event.data["status"] == "null";
        while !self.events_lost && !self.events.iter().any(is_end) {
            let next = self.channel.next(deadline).inspect_err(|error| {
                self.over = Some(format!("the connection is over: {error}"));
            })?;
            let Some(mut message) = next else {
                return Err(Error::TimedOut {
                    peer: self.peer().to_owned(),
                    waited_for: "QEMU's events".to_owned(),
                    limit: PROBE_LIMIT,
                });
            };
            if !self.keep_event(&mut message) && !self.is_late_answer(&message) {
                let error = broken(self.peer(), "it answers something that was not asked");
                self.over = Some(error.to_string());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Drops the events that came before the last answer.
    ///
    /// # Errors
    /// Those of [`Qmp::settle`].
    pub fn forget_events(&mut self) -> Result<()> {
        self.settle()?;
        self.events.clear();
        self.events_lost = false;
        Ok(())
    }

    /// Whether events came faster than they were looked at, so that some are missing.
    #[must_use]
    pub fn has_lost_events(&self) -> bool {
        self.events_lost
    }

    fn keep_event(&mut self, message: &mut Value) -> bool {
        let Some(name) = message["event"].as_str().map(str::to_owned) else { return false };
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
            self.events_lost = true;
        }
        self.events.push_back(QmpEvent { name, data: message["data"].take() });
        true
    }

    /// Waits until a job has done its work, and takes it off QEMU's list. Jobs that are made with `auto-dismiss` off
    /// can be waited for without missing their end.
    ///
    /// # Errors
    /// The job fails, is not there, or takes longer than `limit`.
    pub fn wait_for_job(&mut self, id: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_millis(1);
        loop {
            let jobs = self.execute("query-jobs", json!({}))?;
            let Some(job) = jobs.as_array().into_iter().flatten().find(|job| job["id"] == id) else {
                return Err(Error::NotFound {
                    peer: self.peer().to_owned(),
                    what: format!("job {id} is not there"),
                });
            };
            if job["status"] == "concluded" {
                let failure = job["error"].as_str().map(str::to_owned);
                let kind = job["type"].as_str().unwrap_or("job").to_owned();
                self.execute("job-dismiss", json!({ "id": id }))?;
                return match failure {
                    None => Ok(()),
                    Some(description) => Err(Error::Command {
                        peer: self.peer().to_owned(),
                        command: format!("job {id} ({kind})"),
                        class: "GenericError".to_owned(),
                        description,
                    }),
                };
            }
            if Instant::now() >= deadline {
                return Err(Error::TimedOut {
                    peer: self.peer().to_owned(),
                    waited_for: format!("the end of job {id}"),
                    limit,
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Names and kinds of the properties of an object, from `qom-list`.
    ///
    /// # Errors
    /// Those of [`Qmp::execute`].
    pub fn properties(&mut self, path: &str) -> Result<BTreeMap<String, String>> {
        let list = self.execute("qom-list", json!({ "path": path }))?;
        let pair = |entry: &Value| {
            Some((entry["name"].as_str()?.to_owned(), entry["type"].as_str().unwrap_or_default().to_owned()))
        };
        Ok(list.as_array().into_iter().flatten().filter_map(pair).collect())
    }

    /// The value of a property, from `qom-get`.
    ///
    /// # Errors
    /// Those of [`Qmp::execute`].
    pub fn property(&mut self, path: &str, name: &str) -> Result<Value> {
        self.execute("qom-get", json!({ "path": path, "property": name }))
    }
}
