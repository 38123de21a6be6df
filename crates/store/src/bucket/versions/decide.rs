//! Deciding a version: ballots by plain writes and looks.

use std::time::Duration;

use super::chain::{Chain, Decided, Parts};
use super::look::{Absence, Rests};
use super::lost::Lost;
use super::name::{Ballot, Kind, Part, folder, key_of};
use super::patience::PAUSE;
use super::{COMPARED_BYTES_MAX, RESTARTS_MAX, VersionedStore};
use crate::bucket::Condition;
use crate::{Error, ErrorKind, Key, Result};

/// How many ballots an operation opens before it gives up.
const BALLOTS_MAX: u32 = 60;
/// The shortest time that a pause between two ballots is chosen from.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What became of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its value was decided, here by this ballot or, without one, by others.
    Mine(Option<Decided>),
    /// Another operation's value was decided.
    Other(Kind),
    /// What it builds on is gone, and it has proposed nothing that others could have seen.
    BaseGone,
    /// What it builds on is gone, and nothing tells any more what was decided.
    Unknown {
        /// Whether the object was absent at a moment of the operation; otherwise it may have had other values all the time.
        was_absent: bool,
    },
    /// The object lost parts to somebody else.
    Damaged {
        /// Whether others may have seen the proposal: then it may be decided yet.
        is_exposed: bool,
    },
}

/// What an operation builds on.
pub(super) enum Base {
    /// It creates the object.
    Nothing,
    /// The version that counts.
    Decided(Decided),
    /// What is left of a version that was decided.
    Lost(Lost),
}

/// What an operation proposes.
pub(super) struct Proposal {
    /// What it builds on.
    pub base: Base,
    /// Its random number.
    pub operation: u64,
    /// What the value is.
    pub kind: Kind,
    /// The value, with its header; none when it only takes over what others have proposed.
    pub bytes: Option<Vec<u8>>,
}

/// The value of a ballot: whose it is, what it is, and its bytes.
struct Choice {
    operation: u64,
    kind: Kind,
    bytes: Vec<u8>,
}

/// What a look after a write showed.
enum Seen {
    /// The ballot goes on.
    Open(Chain),
    /// A later ballot goes before it.
    Later(u32),
    /// The operation has come to its end.
    Ended(Outcome),
}

/// How a ballot ended.
enum Step {
    Ended(Outcome),
    /// Another one has to be tried, in a later round than this.
    Later(u32),
}

/// One operation on its way through its ballots.
pub(super) struct Proposer<'a> {
    store: &'a VersionedStore,
    action: &'static str,
    key: &'a Key,
    proposal: &'a Proposal,
    version: u32,
    /// The ballots whose first part was acknowledged, with the operation whose value they were given, if any.
    own: Vec<(Ballot, Option<(u64, Kind)>)>,
    /// Ballots whose first part may or may not be there.
    doubtful: Vec<Ballot>,
    /// Whether others may have seen the proposal: then only a decision tells that it was not made.
    is_exposed: bool,
}

impl<'a> Proposer<'a> {
    pub(super) fn new(
        store: &'a VersionedStore,
        action: &'static str,
        key: &'a Key,
        proposal: &'a Proposal,
    ) -> Result<Self> {
        let before = match &proposal.base {
            Base::Nothing => 0,
            Base::Decided(base) => base.ballot.version,
            Base::Lost(lost) => lost.version,
        };
        let version = before.checked_add(1).ok_or_else(|| Error::Unsupported {
            store: store.bucket.name().to_owned(),
            what: format!("{key} has had all the versions that its names can count"),
        })?;
        Ok(Self {
            store,
            action,
            key,
            proposal,
            version,
            own: Vec::new(),
            doubtful: Vec::new(),
            is_exposed: false,
        })
    }

    /// Opens ballots until the version is decided.
    pub(super) fn run(mut self) -> Result<Outcome> {
        let mut round = 0;
        for attempt in 0..BALLOTS_MAX {
            let begun = self.store.surroundings.time();
            match self.ballot(round) {
                Ok(Step::Ended(outcome)) => {
                    self.withdraw();
                    return Ok(outcome);
                }
                Ok(Step::Later(later)) => round = later,
                Err(error) => {
                    self.withdraw();
                    return Err(error);
                }
            }
            self.step_aside(attempt, self.store.surroundings.time().saturating_sub(begun))?;
        }
        self.withdraw();
        Err(self.store.contended(self.action, self.key))
    }

    /// Waits for a random time, the longer the more ballots were in vain, so that one of several gets through.
    fn step_aside(&self, attempt: u32, one_ballot: Duration) -> Result<()> {
        let most = one_ballot.clamp(PAUSE_MIN, PAUSE_MAX).saturating_mul(1 << attempt.min(6)).min(PAUSE_MAX);
        let share = self.store.surroundings.number()? % 1000;
        self.store.surroundings.pause(most.mul_f64(share as f64 / 1000.0));
        Ok(())
    }

    fn base_nonce(&self) -> u64 {
        match &self.proposal.base {
            Base::Nothing => 0,
            Base::Decided(base) => base.ballot.nonce,
            Base::Lost(lost) => lost.base_nonce(),
        }
    }

    /// One ballot, in a round after `round`.
    fn ballot(&mut self, round: u32) -> Result<Step> {
        let round = round.saturating_add(1);
        let ballot = Ballot { version: self.version, round, nonce: self.store.surroundings.number()? };
        if !self.write(ballot, Part::Prepared { base: self.base_nonce() }, &[])? {
            self.doubtful.push(ballot);
            return Ok(Step::Later(round - 1));
        }
        self.own.push((ballot, None));
        let chain = match self.look(ballot)? {
            Seen::Open(chain) => chain,
            Seen::Later(round) => return Ok(Step::Later(round)),
            Seen::Ended(outcome) => return Ok(Step::Ended(outcome)),
        };
        let Some(Choice { operation, kind, bytes }) = self.choose(&chain)? else {
            let is_idle = self.proposal.bytes.is_none();
            return Ok(if is_idle { Step::Ended(Outcome::BaseGone) } else { Step::Later(round) });
        };
        let is_mine = operation == self.proposal.operation;
        self.is_exposed |= is_mine;
        if let Some((_, given)) = self.own.last_mut() {
            *given = Some((operation, kind));
        }
        if !self.write(ballot, Part::Accepted { operation, kind }, &bytes)? {
            return Ok(Step::Later(round));
        }
        match self.look(ballot)? {
            Seen::Open(_) => {}
            Seen::Later(round) => return Ok(Step::Later(round)),
            Seen::Ended(outcome) => return Ok(Step::Ended(outcome)),
        }
        let size = bytes.len() as u64;
        let decided = Decided { ballot, accepted: super::chain::Accepted { operation, kind, size } };
        // It is decided; if the mark fails, others may set one, or nobody.
        self.own.retain(|(own, _)| *own != ballot);
        self.mark(ballot)?;
        if kind == Kind::Value {
            // What is left over is removed with the next version.
            let _ = self.store.remove_before(self.key, &decided);
        }
        Ok(Step::Ended(if is_mine { Outcome::Mine(Some(decided)) } else { Outcome::Other(kind) }))
    }

    /// The value for this ballot: that of the highest ballot which has one, else the operation's own. `None` when that
    /// ballot was given up meanwhile, or there is no value at all.
    fn choose(&self, chain: &Chain) -> Result<Option<Choice>> {
        let Proposal { operation, kind, .. } = *self.proposal;
        let own = || self.proposal.bytes.clone().map(|bytes| Choice { operation, kind, bytes });
        let Some(found) = chain.highest_value(self.version) else { return Ok(own()) };
        if found.accepted.operation == operation {
            return Ok(own());
        }
        let (history, content) = match self.store.value(self.key, &found, COMPARED_BYTES_MAX) {
            Ok(Some(value)) => value,
            Ok(None) => return Ok(None),
            // It has no mark and will get none that means anything, for nobody can say what it was.
            Err(error)
                if error.kind() == ErrorKind::Damaged && matches!(self.proposal.base, Base::Lost(_)) =>
            {
                return Ok(own());
            }
            Err(error) => return Err(error),
        };
        // The listing may have shown a ballot of a chain that was removed while it ran.
        let Parts { prepared: Some(base), .. } = chain.parts(found.ballot) else { return Ok(None) };
        if !self.store.is_still_prepared(self.key, found.ballot, base)? {
            return Ok(None);
        }
        let (operation, kind) = (found.accepted.operation, found.accepted.kind);
        Ok(Some(Choice { operation, kind, bytes: history.encode(&content) }))
    }

    /// Writes a part, once, and waits until everybody sees it. `false` when it is not known to be there: it may come
    /// late, and the ballot is given up.
    fn write(&self, ballot: Ballot, part: Part, bytes: &[u8]) -> Result<bool> {
        let key = key_of(&folder(self.key), ballot, part)?;
        match self.store.bucket.write(&key, &[bytes], Condition::Always) {
            Ok(()) => {
                self.store.surroundings.pause(self.store.lag);
                Ok(true)
            }
            Err(error) if error.is_transient() => {
                self.store.surroundings.pause(PAUSE);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Marks a ballot as decided. A mark says nothing new however often it comes, so it may be repeated.
    fn mark(&self, ballot: Ballot) -> Result<()> {
        let key = key_of(&folder(self.key), ballot, Part::Marked)?;
        self.store.again(|| self.store.bucket.write(&key, &[], Condition::Always))?;
        self.store.surroundings.pause(self.store.lag);
        Ok(())
    }

    /// Looks after a write: whether the ballot still builds on what it was made for, and whether it is the highest.
    fn look(&self, ballot: Ballot) -> Result<Seen> {
        let mut rests = Rests::default();
        for _ in 0..RESTARTS_MAX {
            let chain = self.store.chain(self.key)?;
            self.store.surroundings.pause(self.store.lag);
            if let Some(current) = chain.current().filter(|current| current.ballot.version >= self.version) {
                match self.verdict(&chain, &current)? {
                    Some(outcome) => return Ok(Seen::Ended(outcome)),
                    None => continue,
                }
            }
            let stands = match &self.proposal.base {
                Base::Decided(base) => match chain.same(base) {
                    // It went while the listing ran: another one shows what came after it.
                    Some(base) if !self.store.is_still(self.key, &base)? => continue,
                    Some(_) => chain.parts(ballot).prepared.is_some(),
                    None => false,
                },
                Base::Nothing => self.are_own_still_there(&chain)?,
                // Nothing that is decided goes before what was left: so the listing shows it, if there is any. But that may
                // have lost parts, too, and show no open ballot.
                Base::Lost(lost) => {
                    chain.lost().is_none_or(|now| now.version < self.version)
                        && self.are_own_still_there(&chain)?
                        && self.store.remains(self.key, lost)?
                }
            };
            let is_absent = !stands || matches!(self.proposal.base, Base::Nothing);
            if is_absent && chain.current().is_none() {
                // What is lost is not gone: who means to create it, or to go on after it, must not take it for that.
                match self.store.absence(self.key, &chain, &mut rests)? {
                    Absence::Again => continue,
                    Absence::Lost(_) => {
                        return Ok(Seen::Ended(Outcome::Damaged { is_exposed: self.is_exposed }));
                    }
                    Absence::Gone
                        if matches!(self.proposal.base, Base::Nothing) && chain.debris().next().is_some() =>
                    {
                        self.store.remove_debris(self.key, &chain)?;
                        continue;
                    }
                    Absence::Gone => {}
                }
            }
            if !stands {
                return Ok(Seen::Ended(if self.is_exposed {
                    Outcome::Unknown { was_absent: true }
                } else {
                    Outcome::BaseGone
                }));
            }
            let highest = chain.open(self.version).map(|(ballot, _)| ballot).last();
            return Ok(match highest {
                Some(later) if later > ballot => Seen::Later(chain.round_max(self.version)),
                _ => Seen::Open(chain),
            });
        }
        Err(self.store.contended(self.action, self.key))
    }

    /// Whether all ballots of this operation, also those that were given up, are there: if one is not, somebody has
    /// removed a chain since it was opened. That takes the place of the base where there is none.
    fn are_own_still_there(&self, chain: &Chain) -> Result<bool> {
        for (own, _) in &self.own {
            if chain.parts(*own).prepared.is_none()
                || !self.store.is_still_prepared(self.key, *own, self.base_nonce())?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What a decided version says of this operation; `None` when it was removed while being read.
    fn verdict(&self, chain: &Chain, current: &Decided) -> Result<Option<Outcome>> {
        let Decided { ballot, accepted } = *current;
        let mine = self.proposal.operation;
        if ballot.version == self.version && accepted.operation == mine {
            let tombstone = (accepted.kind == Kind::Tombstone).then_some(*current);
            return Ok(Some(Outcome::Mine(tombstone)));
        }
        if !self.is_exposed {
            return Ok(Some(Outcome::Other(accepted.kind)));
        }
        let Some((history, _)) = self.store.value(self.key, current, COMPARED_BYTES_MAX)? else {
            return Ok(None);
        };
        let made = |version: u32| history.made_before(ballot.version - version);
        // A chain that was begun anew since tells nothing of this operation.
        let is_same_chain = match &self.proposal.base {
            Base::Decided(base) => made(base.ballot.version) == Some(base.accepted.operation),
            Base::Nothing | Base::Lost(_) => self.are_own_still_there(chain)?,
        };
        Ok(Some(match made(self.version) {
            Some(operation) if is_same_chain && operation == mine => Outcome::Mine(None),
            Some(_) if is_same_chain => Outcome::Other(accepted.kind),
            _ => Outcome::Unknown { was_absent: false },
        }))
    }

    /// Removes the ballots that this operation gave up: none of them was decided, and none will go on.
    fn withdraw(&self) {
        for (ballot, given) in &self.own {
            let given = given.map(|(operation, kind)| Part::Accepted { operation, kind });
            let parts = [Some(Part::Prepared { base: self.base_nonce() }), given];
            self.store.remove_parts(self.key, *ballot, parts.into_iter().flatten());
        }
        for ballot in &self.doubtful {
            let part = Part::Prepared { base: self.base_nonce() };
            self.store.remove_parts(self.key, *ballot, [part].into_iter());
        }
    }
}
