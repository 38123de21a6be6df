//! Telling people what happens: by webhook, by mail.
//!
//! What is to be told of runs is read from the log of their events, from where it was read last: whoever ends a run need not
//! know that anybody is told, and a daemon that is killed loses nothing. It is kept in the catalog ([`book`]) and delivered by
//! one thread for each receiver, so that one that does not answer holds up nobody else. Whatever becomes of a notice, no run
//! waits for it.

mod book;
mod deliver;
mod mail;
mod notice;
mod occasion;
mod webhook;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use leeward_runs::state::{State, StoredEvent};
use leeward_runs::{ErrorKind, Event, RunId};
use serde::Serialize;
use zeroize::Zeroizing;

pub(crate) use book::TABLES;
pub use book::{Delivery, DeliveryState};
pub(crate) use deliver::deliver;
pub(crate) use mail::Mailbox;
pub use occasion::Occasion;

use crate::catalog::Catalog;
use crate::config::Notify;
use crate::site::{Bell, Inner};
use crate::{Config, Error, Result};
use notice::{Notice, Teller, plain};

/// How often the log of events is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long is waited after a state or catalog that failed.
const WAIT_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// Events that are read at once.
const EVENTS_AT_ONCE: usize = 500;
/// Notices that wait in memory for one receiver because the catalog fails.
const UNKEPT_MAX: usize = 32;
/// The largest file with a secret, in bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// What a receiver answered; or why it did not take a notice.
pub(crate) type Answered = std::result::Result<String, Refused>;

/// Why a receiver did not take a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// In words.
    pub what: String,
    /// Whether it is this notice that it does not take; otherwise it takes no others either.
    pub this_one: bool,
    /// For how long it wants to be left alone.
    pub after: Option<Duration>,
}

impl Refused {
    fn by_us(what: String) -> Self {
        Self { what, this_one: false, after: None }
    }

    fn unreached(what: String) -> Self {
        Self::by_us(what)
    }

    fn this_one(what: String) -> Self {
        Self { this_one: true, ..Self::by_us(what) }
    }

    fn after(self, after: Option<Duration>) -> Self {
        Self { after, ..self }
    }
}

/// A file with a secret. It is read each time, so that it can be changed while the daemon runs.
fn secret(file: &Path) -> std::result::Result<Zeroizing<String>, String> {
    let read = || {
        let length = std::fs::metadata(file)?.len();
        if length > SECRET_BYTES_MAX {
            return Err(std::io::Error::other(format!("{length} bytes are no secret")));
        }
        std::fs::read_to_string(file)
    };
    read().map(Zeroizing::new).map_err(|error| format!("{}: cannot be read: {error}", file.display()))
}

/// A receiver, and how it has done of late.
pub(crate) struct Receiver {
    pub name: String,
    pub notify: Notify,
    pub bell: Bell,
    /// Attempts under way, those that do not end among them.
    attempts: Arc<AtomicUsize>,
    /// What could not be kept in the catalog.
    unkept: Mutex<VecDeque<Notice>>,
}

/// Decides who is told what.
pub(crate) struct Notifier {
    pub teller: Teller,
    pub receivers: BTreeMap<String, Arc<Receiver>>,
    catalog: Arc<Catalog>,
}

/// A receiver, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReceiverView {
    /// Its name.
    pub name: String,
    /// How it is told: `webhook` or `mail`.
    pub way: &'static str,
    /// On which occasions.
    pub on: Vec<Occasion>,
    /// Notices that wait for it.
    pub waiting: u64,
    /// Notices that were given up.
    pub failed: u64,
    /// Notices that it took.
    pub delivered: u64,
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// The test's name, as the receiver was told.
    pub id: String,
    /// Whether the receiver took it.
    pub delivered: bool,
    /// What it answered, or why it did not.
    pub answer: String,
}

impl Notifier {
    pub fn new(config: &Config, catalog: Arc<Catalog>) -> Self {
        let receiver = |(name, notify): (&String, &Notify)| {
            let receiver = Receiver {
                name: name.clone(),
                notify: notify.clone(),
                bell: Bell::default(),
                attempts: Arc::default(),
                unkept: Mutex::default(),
            };
            (name.clone(), Arc::new(receiver))
        };
        Self {
            teller: Teller { site: config.name.clone(), url: config.server.url.clone() },
            receivers: config.receivers.iter().map(receiver).collect(),
            catalog,
        }
    }

    /// Settles from where on events are told: from where they were told last; from now on, where nobody was told before. To be
    /// called before runs begin to move.
    pub fn begin(&self, state: &dyn State) -> Result<()> {
        let known = self.catalog.told_up_to()?;
        let newest = state.last_event()?;
        match known {
            // Others may have receivers: who leads settles it.
            _ if self.catalog.is_shared() => Ok(()),
            // Who is configured later is not told what happened before.
            Some(_) if self.receivers.is_empty() => self.catalog.tell_after(None),
            None if self.receivers.is_empty() => Ok(()),
            // The runs are older than the catalog: they were restored without it.
            Some(told) if told > newest => self.catalog.tell_after(Some(newest)),
            Some(_) => Ok(()),
            None => self.catalog.tell_after(Some(newest)),
        }
    }

    /// The same where daemons share the catalog: by the one that leads, each time that it looks.
    fn settle(&self, state: &dyn State) -> Result<()> {
        match (self.receivers.is_empty(), self.catalog.told_up_to()?) {
            (true, Some(_)) => self.catalog.tell_after(None),
            (false, None) => self.catalog.tell_after(Some(state.last_event()?)),
            (true, None) | (false, Some(_)) => Ok(()),
        }
    }

    /// Decides who is told of what happened since the last time; returns whether there may be more.
    fn decide(&self, state: &dyn State, now: Timestamp) -> Result<bool> {
        let Some(told) = self.catalog.told_up_to()? else { return Ok(false) };
        let events = state.events(None, told, EVENTS_AT_ONCE)?;
        let Some(last) = events.last() else { return Ok(false) };
        let (up_to, is_more) = (last.number, events.len() == EVENTS_AT_ONCE);
        let mut decided: Vec<(Arc<Receiver>, Notice)> = Vec::new();
        for event in &events {
            let Some(notice) = self.notice(state, event)? else { continue };
            for receiver in self.receivers.values().filter(|receiver| wants(receiver, event, &notice)) {
                decided.push((Arc::clone(receiver), notice.clone()));
            }
        }
        let notices: Vec<_> = decided.iter().map(|(to, notice)| (to.name.as_str(), notice)).collect();
        self.catalog.tell(&notices, Some(up_to), now)?;
        decided.iter().for_each(|(receiver, _)| receiver.bell.ring());
        Ok(is_more)
    }

    fn notice(&self, state: &dyn State, event: &StoredEvent) -> Result<Option<Notice>> {
        let Event::Moved { state: came, reason } = &event.event else { return Ok(None) };
        if Occasion::of(*came).is_none() {
            return Ok(None);
        }
        match state.load(&event.run) {
            Ok(Some((run, _))) => Ok(self.teller.run(event, *came, reason.as_deref(), &run)),
            Ok(None) => Ok(self.teller.lost_run(event, *came, reason.as_deref())),
            Err(error) if error.kind() == ErrorKind::Passing => Err(error.into()),
            // A document that makes no sense would keep everything after it from being told.
            Err(_) => Ok(self.teller.lost_run(event, *came, reason.as_deref())),
        }
    }

    /// Tells that a slot of a schedule, which begins runs of a kind, passed without its run. It is kept when this returns.
    pub fn missed(
        &self,
        schedule: &str,
        kind: &str,
        slot: Timestamp,
        note: &str,
        run: Option<&RunId>,
    ) -> Result<()> {
        let notice = self.teller.missed(schedule, slot, note, run);
        let told: Vec<_> =
            self.receivers.values().filter(|receiver| receiver.notify.wants_missed(schedule, kind)).collect();
        if told.is_empty() {
            return Ok(());
        }
        let notices: Vec<_> = told.iter().map(|receiver| (receiver.name.as_str(), &notice)).collect();
        self.catalog.tell(&notices, None, Timestamp::now())?;
        told.iter().for_each(|receiver| receiver.bell.ring());
        Ok(())
    }

    /// Tells of a trouble. Where it is the disk that fails, the catalog fails too: then it is told from memory.
    pub fn trouble(&self, run: Option<&RunId>, what: &str, since: Timestamp, over: bool) {
        let notice = self.teller.trouble(run, what, since, over);
        for receiver in self.receivers.values().filter(|to| to.notify.on.contains(&Occasion::Trouble)) {
            let kept = self.catalog.tell(&[(receiver.name.as_str(), &notice)], None, Timestamp::now());
            if kept.is_err() {
                let mut unkept = receiver.unkept.lock().unwrap_or_else(PoisonError::into_inner);
                unkept.push_back(notice.clone());
                while unkept.len() > UNKEPT_MAX {
                    unkept.pop_front();
                }
            }
            receiver.bell.ring();
        }
    }
}

fn wants(receiver: &Receiver, event: &StoredEvent, notice: &Notice) -> bool {
    match (&notice.run, &event.event) {
        (Some(run), _) => receiver.notify.wants_run(run),
        // What kind of run it was is not known any more: better told too much.
        (None, Event::Moved { state, .. }) => {
            Occasion::of(*state).is_some_and(|occasion| receiver.notify.on.contains(&occasion))
        }
        (None, _) => false,
    }
}

/// Decides who is told what, until the site ends.
pub(crate) fn decide(site: &Arc<Inner>, stop: &AtomicBool) {
    let is_shared = site.catalog.is_shared();
    if site.notifier.receivers.is_empty() && !is_shared {
        return;
    }
    let mut not_before = Instant::now();
    while !stop.load(Ordering::Acquire) {
        if Instant::now() >= not_before && site.leads() {
            not_before = Instant::now() + LOOK_EVERY;
            let state = site.runs.state().as_ref();
            let settled = if is_shared { site.notifier.settle(state) } else { Ok(()) };
            match settled.and_then(|()| site.notifier.decide(state, Timestamp::now())) {
                Ok(true) => not_before = Instant::now(),
                Ok(false) => {}
                Err(error) => {
                    let causes = leeward_store::with_causes(&error);
                    site.complain(&format!("nobody can be told what happens: {causes}"));
                    not_before = Instant::now() + WAIT_AFTER_FAILURE;
                }
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl crate::Site {
    /// Who is told of what happens, by name.
    ///
    /// # Errors
    /// The catalog fails.
    pub fn receivers(&self) -> Result<Vec<ReceiverView>> {
        let notifier = &self.inner().notifier;
        let counts = notifier.catalog.delivery_counts()?;
        let count = |name: &str, state| {
            counts
                .iter()
                .find(|(of, found, _)| of == name && *found == state)
                .map_or(0, |(_, _, count)| *count)
        };
        let view = |receiver: &Arc<Receiver>| ReceiverView {
            name: receiver.name.clone(),
            way: if receiver.notify.mail.is_some() { "mail" } else { "webhook" },
            on: receiver.notify.on.iter().copied().collect(),
            waiting: count(&receiver.name, DeliveryState::Waiting),
            failed: count(&receiver.name, DeliveryState::Failed),
            delivered: count(&receiver.name, DeliveryState::Delivered),
        };
        Ok(notifier.receivers.values().map(view).collect())
    }

    /// The newest deliveries before a number, newest first; those in some states, or in any where none is named.
    ///
    /// # Errors
    /// The catalog fails.
    pub fn deliveries(
        &self,
        states: &[DeliveryState],
        before: Option<u64>,
        most: u32,
    ) -> Result<Vec<Delivery>> {
        self.inner().notifier.catalog.deliveries(states, before, most)
    }

    /// Tells a receiver something that has not happened, at once and once, and says what it answered. It takes up to a minute.
    ///
    /// # Errors
    /// There is no such receiver.
    pub fn try_receiver(&self, name: &str, by: &str) -> Result<Tried> {
        let notifier = &self.inner().notifier;
        let receiver = notifier
            .receivers
            .get(name)
            .ok_or_else(|| Error::NotFound(format!("this site tells nobody called {name}")))?;
        let notice = notifier.teller.test(name, by);
        let id = notice.id.clone();
        Ok(match deliver::attempt(receiver, notice, &AtomicBool::new(false)) {
            Some(Ok(answer)) => Tried { id, delivered: true, answer: plain(&answer, 300) },
            Some(Err(refused)) => Tried { id, delivered: false, answer: plain(&refused.what, 300) },
            None => Tried { id, delivered: false, answer: "the daemon is ending".to_owned() },
        })
    }
}

#[cfg(test)]
pub(crate) use book::WAITING_MAX;

/// Keeps a notice, for tests of the catalog.
#[cfg(test)]
pub(crate) fn tell_missed(catalog: &Catalog, receiver: &str, at: Timestamp, up_to: Option<u64>) {
    let teller = Teller { site: "home".to_owned(), url: None };
    catalog.tell(&[(receiver, &teller.missed("nightly", at, "missed", None))], up_to, at).unwrap();
}

#[cfg(test)]
mod tests;
