//! What is tried again, and how often.

use std::time::Duration;

use hyper::Method;
use leeward_store::bucket::RequestClass;
use leeward_store::{Error, Result};

use super::transport::{Answer, Fault, Request};
use super::{Shared, told};

/// How often and how long failures that may pass are borne.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Attempts in all.
    pub attempts: u32,
    /// The wait after the first; it doubles from one to the next, and each is between half and all of that.
    pub first_wait: Duration,
    /// The longest wait.
    pub wait_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempts: 8, first_wait: Duration::from_millis(200), wait_max: Duration::from_secs(15) }
    }
}

/// Counts attempts, and waits between them.
pub(super) struct Attempts {
    patience: Patience,
    made: u32,
}

/// A request that came to nothing.
pub(super) struct Failed {
    pub(super) error: Error,
    /// It may pass by itself.
    pub(super) is_transient: bool,
    /// The server may have done what was asked all the same.
    pub(super) may_be_done: bool,
}

impl Attempts {
    /// Waits before the next attempt; the error when there is none left.
    pub(super) fn wait(&mut self, error: Error) -> Result<()> {
        self.made += 1;
        if self.made >= self.patience.attempts {
            return Err(error);
        }
        let full =
            self.patience.first_wait.saturating_mul(1 << (self.made - 1).min(16)).min(self.patience.wait_max);
        let mut random = [0; 4];
        // Without random bytes all clients wait alike; nothing else is lost.
        let _ = getrandom::fill(&mut random);
        let share = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
        std::thread::sleep(full.mul_f64(0.5 + share / 2.0));
        Ok(())
    }
}

/// What a request counts as; the protocol tells it by method and path.
fn class_of(request: &Request) -> RequestClass {
    match *request.method() {
        Method::PUT => RequestClass::Put,
        Method::GET if request.is_of_object() => RequestClass::Get,
        Method::GET => RequestClass::List,
        Method::HEAD => RequestClass::Head,
        Method::DELETE => RequestClass::Delete,
        _ => RequestClass::Other,
    }
}

impl Shared {
    pub(super) fn attempts(&self) -> Attempts {
        Attempts { patience: self.options.patience.clone(), made: 0 }
    }

    /// One exchange.
    pub(super) fn once(&self, action: &'static str, key: &str, request: &Request) -> Result<Answer, Failed> {
        self.requests.count(class_of(request), request.body_bytes());
        let exchanged = self.transport.exchange(request);
        self.requests.count_received(exchanged.as_ref().map_or(0, |answer| answer.body.len() as u64));
        let (error, may_be_done) = match exchanged {
            Ok(answer) => match &answer.problem {
                None => return Ok(answer),
                Some(problem) => (told(&self.name, action, key, problem), true),
            },
            Err(Fault::Way { what, may_be_done }) => {
                let (store, key) = (self.name.clone(), key.to_owned());
                (Error::Remote { store, action, key, what, is_transient: true }, may_be_done)
            }
            Err(Fault::Untrusted(what)) => {
                let (store, key) = (self.name.clone(), key.to_owned());
                (Error::Remote { store, action, key, what, is_transient: false }, false)
            }
            Err(Fault::TooLarge { size, size_max }) => {
                let (store, key) = (self.name.clone(), key.to_owned());
                (Error::TooLarge { store, key, size, size_max }, true)
            }
            Err(Fault::Nonsense(what)) => (self.contradiction(key, what), true),
        };
        Err(Failed { is_transient: error.is_transient(), error, may_be_done })
    }

    /// An exchange that may be repeated.
    pub(super) fn repeat(&self, action: &'static str, key: &str, request: &Request) -> Result<Answer> {
        let mut attempts = self.attempts();
        loop {
            match self.once(action, key, request) {
                Ok(answer) => return Ok(answer),
                Err(failed) if failed.is_transient => attempts.wait(failed.error)?,
                Err(failed) => return Err(failed.error),
            }
        }
    }
}
