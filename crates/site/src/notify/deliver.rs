//! Bringing notices to one receiver: attempts, pauses, giving up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::book::DeliveryState;
use super::notice::{Notice, plain};
use super::{Answered, Receiver, Refused, WAIT_AFTER_FAILURE, mail, webhook};
use crate::site::Inner;
use crate::{Error, Result};

/// How long an attempt may take, whatever the receiver does.
const ATTEMPT_TIME: Duration = Duration::from_secs(45);
/// Attempts that do not end and are left to themselves, for each receiver. Only names that are not resolved and servers that
/// send a byte now and then can take so long.
const ATTEMPTS_MAX: usize = 4;
/// The pause after the first attempt; each further one is four times as long.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause, whatever the receiver asks for.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// How often it is looked for something that is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is said that a receiver is not reached.
const SAY_EVERY: Duration = Duration::from_secs(3600);
/// The most characters of an outcome.
const OUTCOME_CHARACTERS_MAX: usize = 300;

/// The pause after so many attempts.
fn pause(attempts: u32, asked: Option<Duration>) -> Duration {
    let own = FIRST_PAUSE.saturating_mul(4_u32.saturating_pow(attempts.saturating_sub(1)));
    asked.unwrap_or_default().max(own).min(PAUSE_MAX)
}

/// Tries once, in a thread that is left behind when it takes too long or the site ends; none when it ends.
pub(super) fn attempt(receiver: &Arc<Receiver>, notice: Notice, stop: &AtomicBool) -> Option<Answered> {
    if receiver.attempts.load(Ordering::Acquire) >= ATTEMPTS_MAX {
        return Some(Err(Refused::unreached("earlier attempts have not ended yet".to_owned())));
    }
    let (sender, answers) = mpsc::channel();
    let working = Arc::clone(receiver);
    receiver.attempts.fetch_add(1, Ordering::AcqRel);
    let thread = std::thread::Builder::new().name("notify".to_owned()).spawn(move || {
        let notify = &working.notify;
        let answered = match (&notify.webhook, &notify.mail) {
            (Some(webhook), _) => webhook::send(webhook, &notice, Timestamp::now()),
            (None, Some(mail)) => mail::send(mail, &notice),
            (None, None) => Err(Refused::by_us("it has no way to be told".to_owned())),
        };
        working.attempts.fetch_sub(1, Ordering::AcqRel);
        // Nobody may wait for it any more.
        let _ = sender.send(answered);
    });
    if let Err(error) = thread {
        receiver.attempts.fetch_sub(1, Ordering::AcqRel);
        return Some(Err(Refused::by_us(format!("the system gives no threads: {error}"))));
    }
    let end = Instant::now() + ATTEMPT_TIME;
    loop {
        match answers.recv_timeout(Duration::from_millis(100)) {
            Ok(answered) => return Some(answered),
            Err(RecvTimeoutError::Disconnected) => {
                return Some(Err(Refused::by_us(
                    "the attempt failed; the daemon's log says more".to_owned(),
                )));
            }
            Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Acquire) => return None,
            Err(RecvTimeoutError::Timeout) if Instant::now() >= end => {
                let what = format!("it did not take it within {} s", ATTEMPT_TIME.as_secs());
                return Some(Err(Refused::unreached(what)));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// How it goes with a receiver.
#[derive(Default)]
struct Fortune {
    /// Attempts that failed since the last one that did not, and for which others do no better.
    failures: u32,
    not_before: Option<Instant>,
    said: Option<Instant>,
}

impl Fortune {
    fn rests(&self) -> bool {
        self.not_before.is_some_and(|time| Instant::now() < time)
    }

    fn rest(&mut self, length: Duration) {
        self.not_before = Some(Instant::now() + length);
    }

    /// Whether it is to be said that something failed.
    fn is_to_be_said(&mut self) -> bool {
        let is_new = self.said.is_none_or(|said| said.elapsed() >= SAY_EVERY);
        if is_new {
            self.said = Some(Instant::now());
        }
        is_new
    }
}

/// Brings notices to a receiver until the site ends.
pub(crate) fn deliver(site: &Arc<Inner>, receiver: &Arc<Receiver>, stop: &AtomicBool) {
    let mut fortune = Fortune::default();
    while !stop.load(Ordering::Acquire) {
        let went_on = if fortune.rests() { Ok(false) } else { step(site, receiver, &mut fortune, stop) };
        match went_on {
            Ok(true) => {}
            Ok(false) => receiver.bell.wait(LOOK_EVERY),
            Err(error) => {
                if fortune.is_to_be_said() {
                    let causes = leeward_store::with_causes(&error);
                    site.complain(&format!("notices for {} cannot be read or kept: {causes}", receiver.name));
                }
                // What is in memory only does not wait for the catalog.
                if !matches!(unkept(receiver, &mut fortune, stop), Some(true)) {
                    fortune.rest(WAIT_AFTER_FAILURE);
                }
            }
        }
    }
}

/// Brings what could not be kept; none where there is nothing, otherwise whether it was taken.
fn unkept(receiver: &Arc<Receiver>, fortune: &mut Fortune, stop: &AtomicBool) -> Option<bool> {
    let take = || receiver.unkept.lock().unwrap_or_else(PoisonError::into_inner);
    let notice = take().front().cloned()?;
    let id = notice.id.clone();
    match attempt(receiver, notice, stop)? {
        Ok(_) => {
            let mut waiting = take();
            if waiting.front().is_some_and(|first| first.id == id) {
                waiting.pop_front();
            }
            fortune.failures = 0;
            Some(true)
        }
        Err(refused) => {
            // What the receiver will never take stands in nobody's way.
            if refused.this_one {
                let mut waiting = take();
                if waiting.front().is_some_and(|first| first.id == id) {
                    waiting.pop_front();
                }
            }
            Some(false)
        }
    }
}

/// Brings one notice that is due; whether there was one.
fn step(
    site: &Arc<Inner>,
    receiver: &Arc<Receiver>,
    fortune: &mut Fortune,
    stop: &AtomicBool,
) -> Result<bool> {
    let unkept = unkept(receiver, fortune, stop);
    if unkept == Some(true) {
        return Ok(true);
    }
    let due = match site.leads() {
        true => site.catalog.due_for(&receiver.name, Timestamp::now())?,
        false => None,
    };
    let Some((delivery, notice)) = due else {
        if unkept.is_some() {
            fortune.rest(WAIT_AFTER_FAILURE);
        }
        return Ok(false);
    };
    let end = |state, outcome: &str| {
        let outcome = plain(outcome, OUTCOME_CHARACTERS_MAX);
        site.catalog.end_delivery(delivery.number, state, &outcome, Timestamp::now())
    };
    let Some(notice) = notice else {
        end(DeliveryState::Failed, "what is to be told cannot be read")?;
        return Ok(true);
    };
    let answered = match attempt(receiver, notice, stop) {
        Some(answered) => answered,
        None => return Ok(false),
    };
    let refused = match answered {
        Ok(answer) => {
            if fortune.said.take().is_some() {
                site.complain(&format!("{} is told of what happens again", receiver.name));
            }
            fortune.failures = 0;
            end(DeliveryState::Delivered, &answer)?;
            return Ok(true);
        }
        Err(refused) => refused,
    };
    let what = plain(&refused.what, OUTCOME_CHARACTERS_MAX);
    if fortune.is_to_be_said() {
        site.complain(&format!(
            "{} could not be told of what happens, and will be tried again: {what}",
            receiver.name
        ));
    }
    let attempts = delivery.attempts.saturating_add(1);
    let now = Timestamp::now();
    if now.duration_since(delivery.made) >= receiver.notify.give_up_after() {
        site.complain(&format!(
            "{} was not told, after {attempts} attempts: {}",
            receiver.name, delivery.title
        ));
        end(DeliveryState::Failed, &format!("given up after {attempts} attempts: {what}"))?;
    } else {
        // Where the receiver does not answer, how often this one was tried does not matter: it is the first to be tried again.
        let failed = if refused.this_one { attempts } else { fortune.failures.saturating_add(1) };
        let length = pause(failed, refused.after);
        let until = SignedDuration::try_from(length).map_err(|error| Error::Other(error.to_string()))?;
        site.catalog.postpone_delivery(delivery.number, now + until, &what)?;
    }
    if !refused.this_one {
        fortune.failures = fortune.failures.saturating_add(1);
        fortune.rest(pause(fortune.failures, refused.after));
    }
    Ok(true)
}

#[cfg(test)]
pub(super) fn tell_unkept(receiver: &Arc<Receiver>) -> Option<bool> {
    unkept(receiver, &mut Fortune::default(), &AtomicBool::new(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_an_hour_and_a_receiver_may_ask_for_longer_ones() {
        let seconds: Vec<_> = (1..=8).map(|attempts| pause(attempts, None).as_secs()).collect();
        assert_eq!(seconds, [2, 8, 32, 128, 512, 2048, 3600, 3600]);
        assert_eq!(pause(u32::MAX, None), PAUSE_MAX);
        assert_eq!(pause(1, Some(Duration::from_secs(60))).as_secs(), 60);
        assert_eq!(pause(1, Some(Duration::from_secs(999_999))), PAUSE_MAX);
        assert_eq!(pause(3, Some(Duration::ZERO)).as_secs(), 32);
    }
}
