//! The work of a transfer: one pack after the other, over several lanes, each checked on both sides.
//!
//! What always holds:
//! - on this server's side every pack is judged with the token of whoever asked, as it is now: a token that is removed or
//!   has expired stops the transfer at the next pack;
//! - a pack is stored where its bytes are what its name says, and where no key is needed to tell, its chunks what they are
//!   called;
//! - it is stored under a name that no pack has ever had: one of its old name may have been there before, and a collection
//!   that is slow may be about to delete it (`docs/collection.md`). Whoever asked finds out himself what has arrived.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use leeward_repository::PackId;
use leeward_repository::transfer::rename_pack;
use leeward_repository::verify::inspect;
use leeward_store::{Error, Key, Object, Store};
use tokio::sync::SemaphorePermit;

use super::peers::PeerServer;
use super::transfers::{Direction, Job, TransferState};
use super::{MEMORY_UNIT, ServerState, audit};
use crate::client::{ClientOptions, HttpStore};
use crate::guard::{Condition, Reading};
use crate::problem::{Code, Problem};
use crate::token::{Token, TokenFile, TokenText};

/// Packs of one transfer that are moved at once, each with its size of memory.
const LANES: usize = 4;
/// How long a wait lasts before an end is looked for.
const NAP: Duration = Duration::from_millis(50);

/// What is to be done. It holds a secret, so it does not print.
pub(super) struct Work {
    pub(super) id: String,
    pub(super) peer: PeerServer,
    pub(super) direction: Direction,
    /// What opens the peer.
    pub(super) pass: TokenText,
    pub(super) packs: Vec<PackId>,
    pub(super) bytes_per_second: Option<u64>,
    /// The id of the token of whoever asked.
    pub(super) token: String,
}

/// What became of a pack.
enum Outcome {
    Moved(u64),
    /// It was left, for a reason that concerns this pack alone.
    Left(String),
}

/// Why the transfer cannot go on.
enum Stop {
    Over,
    Failed { what: String, is_transient: bool },
}

impl Stop {
    fn of_problem(problem: &Problem) -> Self {
        Self::Failed {
            what: format!("here: {} — {}", problem.message, problem.hint),
            is_transient: problem.is_transient(),
        }
    }
}

struct Mover {
    state: ServerState,
    job: Arc<Job>,
    work: Work,
    peer: HttpStore,
    next: AtomicUsize,
    /// When all that was granted so far will have been paid for.
    paid_until: Mutex<Instant>,
}

/// Begins to move packs, in threads of its own.
pub(super) fn start(state: &ServerState, job: &Arc<Job>, work: Work) -> Result<(), Problem> {
    let failed = |what: String| {
        let mut status = job.status();
        (status.state, status.problem) = (TransferState::Failed, Some(what.clone()));
        Problem::new(Code::Failed, what, "see the server's settings of its peers (--peer, --peer-ca)")
    };
    let pass = TokenText::new(work.pass.reveal());
    let peer = HttpStore::new(&work.peer.location, pass, &work.peer.trust, ClientOptions::default())
        .map_err(|error| failed(error.to_string()))?;
    let mover = Mover {
        state: state.clone(),
        job: Arc::clone(job),
        work,
        peer,
        next: AtomicUsize::new(0),
        paid_until: Mutex::new(Instant::now()),
    };
    let thread = std::thread::Builder::new().name("transfer".to_owned());
    thread.spawn(move || mover.run()).map_err(|_| failed("the system gives no threads".to_owned()))?;
    Ok(())
}

impl Mover {
    fn run(&self) {
        let ended: Vec<Result<(), Stop>> = std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(|| self.lane())).collect();
            let fallen =
                || Stop::Failed { what: "a thread of the server has died".to_owned(), is_transient: true };
            lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|_| Err(fallen()))).collect()
        });
        let mut state = TransferState::Done;
        let mut problem = None;
        for stop in ended.into_iter().filter_map(Result::err) {
            match stop {
                Stop::Over if problem.is_none() => state = TransferState::Cancelled,
                Stop::Over => {}
                Stop::Failed { what, is_transient } => {
                    state = TransferState::Failed;
                    problem.get_or_insert((what, is_transient));
                }
            }
        }
        let mut status = self.job.status();
        if let Some((what, is_transient)) = problem {
            (status.problem, status.is_transient) = (Some(what), is_transient);
        }
        status.state = state;
        let told = status.clone();
        drop(status);
        self.note(&told);
    }

    /// Writes into the log what was done, and for whom.
    fn note(&self, status: &super::TransferStatus) {
        let tokens = self.state.0.tokens.current().ok();
        let token = tokens.as_ref().and_then(|file| self.token_in(file));
        let way = match self.work.direction {
            Direction::Send => "sent to",
            Direction::Fetch => "fetched from",
        };
        let what = format!(
            "TRANSFER {}: {} of {} packs {way} peer {} ({})",
            self.work.id, status.packs_moved, status.packs, self.work.peer.name, self.work.peer.location
        );
        self.state.0.audit.note(&audit::Line {
            time: Timestamp::now().to_string(),
            request: &self.work.id,
            peer: None,
            token: token.map(|token| token.name.as_str()),
            role: token.map(|token| token.role.name()),
            what: &what,
            bytes: Some(status.bytes_moved),
            status: if status.state == TransferState::Done { 200 } else { 500 },
            problem: status.problem.as_deref(),
        });
    }

    fn token_in<'a>(&self, tokens: &'a TokenFile) -> Option<&'a Token> {
        tokens.tokens.iter().find(|token| token.id == self.work.token)
    }

    fn lane(&self) -> Result<(), Stop> {
        // What fails in one lane stops the others at their next pack.
        self.moves().inspect_err(|_| self.next.store(self.work.packs.len(), Ordering::Relaxed))
    }

    fn moves(&self) -> Result<(), Stop> {
        while let Some(pack) = self.work.packs.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if self.job.is_over() {
                return Err(Stop::Over);
            }
            let outcome = self.move_pack(*pack)?;
            let mut status = self.job.status();
            match outcome {
                Outcome::Moved(bytes) => {
                    status.packs_moved += 1;
                    status.bytes_moved += bytes;
                }
                Outcome::Left(why) => {
                    status.packs_left += 1;
                    status.problem.get_or_insert(format!("pack {}: {why}", pack.short()));
                }
            }
        }
        Ok(())
    }

    fn move_pack(&self, pack: PackId) -> Result<Outcome, Stop> {
        let key = key_of(pack)?;
        match self.work.direction {
            Direction::Send => self.send(pack, &key),
            Direction::Fetch => self.fetch(pack, &key),
        }
    }

    /// The token of whoever asked, as it is now.
    fn caller(&self) -> Result<(Token, Arc<TokenFile>), Stop> {
        let failed = |what: &str| Stop::Failed { what: what.to_owned(), is_transient: false };
        let tokens =
            self.state.0.tokens.current().map_err(|_| failed("the server cannot read its tokens"))?;
        let token = self.token_in(&tokens).filter(|token| !token.has_expired(Timestamp::now())).cloned();
        let token = token.ok_or_else(|| failed("the token that began the transfer is not valid any more"))?;
        Ok((token, tokens))
    }

    fn send(&self, pack: PackId, key: &Key) -> Result<Outcome, Stop> {
        let guard = &self.state.0.guard;
        let (token, _) = self.caller()?;
        let object = match guard.read(&token, key, None, false) {
            Ok(Reading::Object(object)) => object,
            Ok(Reading::Record(..)) => return Ok(Outcome::Left("it is none".to_owned())),
            Err(problem) if problem.code == Code::NotFound => {
                return Ok(Outcome::Left("it is not here any more".to_owned()));
            }
            Err(problem) => return Err(Stop::of_problem(&problem)),
        };
        let _memory = match self.grant(object.size())? {
            Some(memory) => memory,
            None => return Ok(Outcome::Left("it is larger than the memory of the server".to_owned())),
        };
        // It may have been taken away while this pack waited.
        self.caller()?;
        let mut bytes = read(object.as_ref()).map_err(|error| Stop::of_problem(&error.into()))?;
        if let Err(what) = inspect(key.as_str(), &bytes) {
            return Ok(Outcome::Left(format!("it is damaged here: {what}")));
        }
        match self.peer.put_if_absent(&renamed(pack, &mut bytes)?, &[&bytes]) {
            // That it is there is the answer to a request that was sent twice: nobody else has a pack of this name.
            Ok(()) | Err(Error::AlreadyExists { .. }) => {
                self.state.0.metrics.sent(bytes.len() as u64);
                Ok(Outcome::Moved(bytes.len() as u64))
            }
            Err(error) => self.at_peer(error),
        }
    }

    fn fetch(&self, pack: PackId, key: &Key) -> Result<Outcome, Stop> {
        let guard = &self.state.0.guard;
        self.caller()?;
        let object = match self.peer.open(key) {
            Ok(object) => object,
            Err(error) => return self.at_peer(error),
        };
        let _memory = match self.grant(object.size())? {
            Some(memory) => memory,
            None => return Ok(Outcome::Left("it is larger than the memory of the server".to_owned())),
        };
        let mut bytes = match read(object.as_ref()) {
            Ok(bytes) => bytes,
            Err(error) => return self.at_peer(error),
        };
        let fits = guard.names_fit(key, &bytes).map_err(|problem| Stop::of_problem(&problem))?;
        if let Err(what) = fits {
            return Ok(Outcome::Left(format!("it is damaged at the peer: {what}")));
        }
        let new = renamed(pack, &mut bytes)?;
        // It may have been taken away while this pack waited and came.
        let (token, tokens) = self.caller()?;
        match guard.write(&token, &tokens, &new, &Condition::Absent, &bytes) {
            Ok(_) => {
                self.state.0.metrics.received(bytes.len() as u64);
                Ok(Outcome::Moved(bytes.len() as u64))
            }
            Err(problem) if problem.code == Code::Rejected => Ok(Outcome::Left(problem.message)),
            Err(problem) => Err(Stop::of_problem(&problem)),
        }
    }

    /// What the peer's refusal means: for this pack, or for all.
    fn at_peer(&self, error: Error) -> Result<Outcome, Stop> {
        // A pass that has ended is denied: with a new one it goes on.
        let is_transient = error.is_transient() || matches!(error, Error::Denied { .. });
        match error {
            Error::NotFound { .. } => Ok(Outcome::Left("the peer does not have it any more".to_owned())),
            Error::Remote { what, is_transient: false, .. } => {
                Ok(Outcome::Left(format!("the peer refused it: {what}")))
            }
            error => Err(Stop::Failed {
                what: format!("at peer {}: {}", self.work.peer.name, leeward_store::with_causes(&error)),
                is_transient,
            }),
        }
    }

    /// Waits until so many bytes may be held and moved. None when they are more than the server ever holds.
    fn grant(&self, bytes: u64) -> Result<Option<SemaphorePermit<'_>>, Stop> {
        if bytes > u64::from(self.state.0.options.memory_bytes) {
            return Ok(None);
        }
        let units = u32::try_from(bytes.div_ceil(MEMORY_UNIT)).unwrap_or(u32::MAX);
        let due = self.due(bytes);
        loop {
            if self.job.is_over() {
                return Err(Stop::Over);
            }
            if due.is_none_or(|due| due <= Instant::now())
                && let Ok(permit) = self.state.0.memory.try_acquire_many(units)
            {
                return Ok(Some(permit));
            }
            std::thread::sleep(NAP);
        }
    }

    /// When so many bytes more are within the rate that was asked for.
    fn due(&self, bytes: u64) -> Option<Instant> {
        let rate = self.work.bytes_per_second?.max(1);
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paid_until = (*paid_until).max(Instant::now()).checked_add(cost)?;
        Some(*paid_until)
    }
}

fn key_of(pack: PackId) -> Result<Key, Stop> {
    let none = || Stop::Failed { what: "a pack has no key".to_owned(), is_transient: false };
    Key::under("packs", &pack.to_string()).ok_or_else(none)
}

/// Gives a pack that was found sound a name of its own; its key.
fn renamed(pack: PackId, bytes: &mut [u8]) -> Result<Key, Stop> {
    let failed =
        |what: String| Stop::Failed { what: format!("pack {}: {what}", pack.short()), is_transient: true };
    key_of(rename_pack(pack, bytes).map_err(failed)?)
}

fn read(object: &dyn Object) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; usize::try_from(object.size()).unwrap_or(usize::MAX)];
    object.read_at(&mut bytes, 0)?;
    Ok(bytes)
}
