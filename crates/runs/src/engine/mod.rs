//! The engine: takes runs, does what is next, writes down what came of it.
//!
//! One thread decides and writes; each step has a thread of its own, which only reads the run as it was when the step began.
//! Results come back over a channel and are kept under the claim with which the step was begun.
//!
//! A lease is prolonged three times in its length. An engine that could not prolong it tells its steps to stop; what they
//! still say is refused by the fence. Another engine may begin the same step before the first one has stopped: steps are
//! written for that ([`crate::step`]).

mod held;
mod trouble;
mod work;

pub use trouble::Trouble;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use held::Held;
use trouble::{Troubles, Work};
use work::Finished;

use crate::state::{Inserted, Replaced, State};
use crate::step::{Kind, LeaseEnd};
use crate::{Command, Error, ErrorKind, Event, Result, Run, RunId, RunState, apply, command};

/// How often a change by comparison is tried before it is given up.
const TRIES: usize = 50;

/// How many messages are heard before the engine looks at its runs again.
const MESSAGES_AT_ONCE: usize = 1_000;
/// How many polls a run whose document makes no sense is left alone before it is looked at again.
const POLLS_LEFT_ALONE: u32 = 60;
/// The longest key under which a run is made once, in bytes.
const UNIQUE_BYTES_MAX: usize = 1_024;

/// How an engine works.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Its name among all engines of the state, as `HOST:PID`.
    pub owner: String,
    /// How long a run stays its own without a word.
    pub lease: Duration,
    /// How often it looks for what others have changed.
    pub poll: Duration,
    /// The most runs that it has at once.
    pub runs: usize,
    /// The most steps that it has under way at once.
    pub steps: usize,
    /// How many runs may have a place in a pool, by pool.
    pub pools: BTreeMap<String, u32>,
    /// How often a step may lose its engine before it is held to be the cause.
    pub interruptions: u32,
    /// How long a step that has to stop may take before it is given up.
    pub patience: Duration,
}

impl EngineOptions {
    /// The usual ones.
    #[must_use]
    pub fn new(owner: &str) -> Self {
        Self {
            owner: owner.to_owned(),
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            runs: 64,
            steps: 64,
            pools: BTreeMap::new(),
            interruptions: 20,
            patience: Duration::from_secs(120),
        }
    }
}

/// What the thread that decides is told.
enum Message {
    /// A step ended.
    Finished(Finished),
    /// Look for runs.
    Wake,
    /// A person spoke to a run.
    Changed(RunId),
}

/// A running engine. Dropping it ends it as [`Engine::stop`] does.
pub struct Engine {
    runs: Runs,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Makes runs and speaks to them; cheap to clone. What it asks is done by whichever engine has the run.
#[derive(Clone)]
pub struct Runs {
    state: Arc<dyn State>,
    wake: Arc<Mutex<Option<Sender<Message>>>>,
    troubles: Arc<Troubles>,
}

impl Runs {
    /// Runs of a state without an engine of this process.
    #[must_use]
    pub fn new(state: Arc<dyn State>) -> Self {
        Self { state, wake: Arc::default(), troubles: Arc::default() }
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &Arc<dyn State> {
        &self.state
    }

    /// Makes a run; `unique` is a key under which it is made once only.
    ///
    /// # Errors
    /// The plan makes no sense or the state fails.
    pub fn begin(&self, run: &Run, unique: Option<&str>) -> Result<Inserted> {
        run.plan.check()?;
        if unique.is_some_and(|key| key.len() > UNIQUE_BYTES_MAX || key.contains('\0')) {
            return Err(Error::Invalid(format!(
                "the key of a run has more than {UNIQUE_BYTES_MAX} bytes, or a NUL"
            )));
        }
        let inserted = self.state.insert(run, unique)?;
        self.wake();
        Ok(inserted)
    }

    /// Does what a person asks of a run; returns the run as it is then.
    ///
    /// # Errors
    /// There is no such run, it is in no state for that, or the state fails.
    pub fn command(&self, id: &RunId, command: &Command) -> Result<Run> {
        for _ in 0..TRIES {
            let (mut run, _) = self.state.load(id)?.ok_or_else(|| Error::NoRun(id.clone()))?;
            let events = command::decide(&run, command)?;
            let now = self.state.now()?;
            events.iter().for_each(|event| apply(&mut run, event, now));
            match self.state.replace(&run, run.sequence, None, &events)? {
                Replaced::Done => {
                    // It may be with this process' engine, or wait to be taken.
                    self.tell(Message::Changed(id.clone()));
                    self.wake();
                    return Ok(run);
                }
                Replaced::Gone => return Err(Error::NoRun(id.clone())),
                Replaced::Changed | Replaced::Fenced => {}
            }
        }
        Err(Error::Busy(id.clone()))
    }

    /// What keeps this process' engine from its work now: the state that fails, and runs that make no sense.
    #[must_use]
    pub fn troubles(&self) -> Vec<Trouble> {
        self.troubles.now()
    }

    /// Has this process' engine look now rather than at its next turn.
    pub fn wake(&self) {
        self.tell(Message::Wake);
    }

    fn tell(&self, message: Message) {
        let wake = self.wake.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = wake.as_ref() {
            // An engine that has ended needs no waking.
            let _ = sender.send(message);
        }
    }
}

impl Engine {
    /// Starts an engine.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(
        state: Arc<dyn State>,
        kinds: Vec<Arc<dyn Kind>>,
        options: EngineOptions,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        let troubles: Arc<Troubles> = Arc::default();
        let runs = Runs {
            state: Arc::clone(&state),
            wake: Arc::new(Mutex::new(Some(sender.clone()))),
            troubles: Arc::clone(&troubles),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            state,
            kinds: kinds.into_iter().map(|kind| (kind.name().to_owned(), kind)).collect(),
            options,
            sender,
            receiver,
            held: BTreeMap::new(),
            left_alone: BTreeMap::new(),
            troubles,
            stop: Arc::clone(&stop),
            renewed: Instant::now(),
            renew_at: Instant::now(),
            look_at: Instant::now(),
        };
        let thread = std::thread::Builder::new().name("runs".to_owned()).spawn(move || worker.work())?;
        Ok(Self { runs, stop, thread: Some(thread) })
    }

    /// The runs of its state.
    #[must_use]
    pub fn runs(&self) -> &Runs {
        &self.runs
    }

    /// Ends the engine: steps are told to stop, and its runs are given back so that another engine takes them at once.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.runs.wake();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the thread; there is nothing to give back.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}

struct Worker {
    state: Arc<dyn State>,
    kinds: BTreeMap<String, Arc<dyn Kind>>,
    options: EngineOptions,
    sender: Sender<Message>,
    receiver: Receiver<Message>,
    held: BTreeMap<RunId, Held>,
    /// Runs whose documents make no sense, and when to look at them again.
    left_alone: BTreeMap<RunId, Instant>,
    troubles: Arc<Troubles>,
    stop: Arc<AtomicBool>,
    /// When the leases were prolonged last: the moment before the state was asked.
    renewed: Instant,
    renew_at: Instant,
    look_at: Instant,
}

impl Worker {
    fn work(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            let wait = self.time_to_next();
            match self.receiver.recv_timeout(wait) {
                Ok(message) => self.hear(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // One look at the state serves all that was said meanwhile.
            for _ in 0..MESSAGES_AT_ONCE {
                let Ok(message) = self.receiver.try_recv() else { break };
                self.hear(message);
            }
            // A database that fails for a while must not end the engine: what was not done is done at the next turn.
            self.renew();
            self.look();
            self.advance();
        }
        self.give_back();
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Finished(finished) => self.finish(finished),
            Message::Wake => self.look_at = Instant::now(),
            Message::Changed(run) => {
                if let Some(held) = self.held.get_mut(&run) {
                    held.due = Some(Instant::now());
                }
            }
        }
    }

    fn time_to_next(&self) -> Duration {
        let due = self.held.values().filter_map(|held| held.due);
        let renew = (!self.held.is_empty()).then_some(self.renew_at);
        let next = due.chain(renew).fold(self.look_at, Instant::min);
        next.saturating_duration_since(Instant::now())
    }

    /// Prolongs the leases, and learns which runs are no longer its own and which were changed by others.
    fn renew(&mut self) {
        let asked = Instant::now();
        if self.held.is_empty() || asked < self.renew_at {
            return;
        }
        self.renew_at = asked + (self.options.lease / 3).min(self.options.poll);
        let claims: Vec<_> = self.held.values().map(|held| held.claim.clone()).collect();
        match self.state.renew(&claims, self.options.lease) {
            Ok(still) => {
                self.troubles.passed(&Work::Leases);
                self.renewed = asked;
                let still: BTreeMap<_, _> =
                    still.into_iter().map(|(claim, sequence)| (claim.run, sequence)).collect();
                self.held.retain(|id, held| held.keep(still.get(id).copied()));
                self.held.values().for_each(|held| held.lease.prolong(asked, self.options.lease));
            }
            Err(error) => {
                self.troubles.met(Work::Leases, &error);
                if self.renewed.elapsed() > self.options.lease {
                    self.held.values().for_each(Held::lose);
                    self.held.clear();
                }
            }
        }
    }

    /// Takes runs that nobody has.
    fn look(&mut self) {
        let asked = Instant::now();
        if asked < self.look_at {
            return;
        }
        self.look_at = asked + self.options.poll;
        let most = self.options.runs.saturating_sub(self.held.len());
        if most == 0 {
            return;
        }
        if self.held.is_empty() {
            self.renewed = asked;
        }
        self.look_at_left_alone();
        let except: Vec<RunId> = self.left_alone.keys().cloned().collect();
        let options = &self.options;
        let claimed = match self.state.claim(&options.owner, options.lease, most, &options.pools, &except) {
            Ok(claimed) => claimed,
            Err(error) => return self.troubles.met(Work::Looking, &error),
        };
        self.troubles.looked(|run| self.held.contains_key(run), !self.held.is_empty());
        for claim in claimed {
            let lease = LeaseEnd::new(asked, self.options.lease);
            // A run that it has and takes anew: the lease was over without its knowing, as when the clock is set forward.
            if let Some(lost) = self.held.insert(claim.run.clone(), Held::new(claim, lease)) {
                lost.lose();
            }
        }
    }

    /// Gives a run back whose document makes no sense: another release may understand it, or a person mends it.
    fn leave_alone(&mut self, held: &Held) {
        held.lose();
        self.left_alone.insert(held.claim.run.clone(), self.after_left_alone());
        self.release(held);
    }

    fn after_left_alone(&self) -> Instant {
        Instant::now() + self.options.poll * POLLS_LEFT_ALONE
    }

    /// Looks whether runs that were left alone make sense now: then they are taken as others are.
    fn look_at_left_alone(&mut self) {
        let (now, later) = (Instant::now(), self.after_left_alone());
        for (run, at) in &mut self.left_alone {
            if *at > now {
                continue;
            }
            *at = later;
            match self.state.load(run) {
                Ok(_) => self.troubles.passed(&Work::Run(run.clone())),
                Err(error) if error.kind() == ErrorKind::Lasting => {
                    self.troubles.met(Work::Run(run.clone()), &error);
                }
                Err(_) => {}
            }
        }
        self.left_alone.retain(|run, _| self.troubles.is_damaged(run));
    }

    fn release(&self, held: &Held) {
        if let Err(error) = self.state.release(&held.claim) {
            // It is free when its lease is over.
            self.troubles.met(Work::Run(held.claim.run.clone()), &error);
        }
    }

    /// Does what is next for each run that has something to do.
    fn advance(&mut self) {
        let now = Instant::now();
        let due: Vec<RunId> = self
            .held
            .iter()
            .filter(|(_, held)| held.due.is_some_and(|due| due <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            let Some(mut held) = self.held.remove(&id) else { continue };
            if self.advance_one(&mut held) {
                self.held.insert(id, held);
            }
        }
    }

    fn finish(&mut self, finished: Finished) {
        let Some(mut held) = self.held.remove(&finished.claim.run) else { return };
        if held.claim == finished.claim && held.settle(finished) {
            held.due = Some(Instant::now());
        }
        self.held.insert(held.claim.run.clone(), held);
    }

    fn give_back(mut self) {
        self.held.values().for_each(Held::lose);
        let end = Instant::now() + self.options.patience;
        while self.held.values().any(Held::is_busy) && Instant::now() < end {
            match self.receiver.recv_timeout(Duration::from_millis(100)) {
                Ok(Message::Finished(finished)) => self.finish(finished),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.renew();
        }
        let ids: Vec<RunId> = self.held.keys().cloned().collect();
        for id in ids {
            let Some(mut held) = self.held.remove(&id) else { continue };
            self.write_results(&mut held);
            self.release(&held);
        }
    }

    fn move_event(state: RunState, reason: Option<String>) -> Event {
        Event::Moved { state, reason }
    }
}
