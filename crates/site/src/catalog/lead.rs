//! Who does what only one daemon is to do, of those that share a database: looks at sources, begins scheduled runs, tells
//! people, forgets what is old. Runs are no such thing: each daemon has its own of them.
//!
//! A daemon leads for a while, by the database's clock, and says again and again that it goes on. One that is killed is
//! followed when its time is over; one that ends in order lets go. Nothing depends on there being no two for a moment (a daemon
//! that was stopped in the middle of something goes on with it): runs are begun under keys, and who is told something twice
//! is told it under the same name.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leeward_store::with_causes;

use super::{Catalog, Database, values};
use crate::Result;
use crate::site::Inner;

/// For how long a daemon leads without saying so again.
const TERM: Duration = Duration::from_secs(20);
/// How often it says so, and how often the others ask.
const EVERY: Duration = Duration::from_secs(4);
/// The database's clock, in microseconds since 1970.
pub(crate) const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Whether this daemon leads.
#[derive(Debug)]
pub(crate) struct Lead {
    daemon: String,
    until: Mutex<Option<Instant>>,
}

impl Lead {
    /// That of a daemon, by a name that no other one has.
    pub fn new(daemon: String) -> Self {
        Self { daemon, until: Mutex::new(None) }
    }

    /// Whether this daemon leads now.
    pub fn is_held(&self, catalog: &Catalog) -> bool {
        if !catalog.is_shared() {
            return true;
        }
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn set(&self, until: Option<Instant>) -> bool {
        let mut known = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let led = known.is_some();
        *known = until;
        led != until.is_some()
    }
}

impl Catalog {
    /// Whether other daemons may have it, too.
    pub fn is_shared(&self) -> bool {
        matches!(self.database, Database::Shared(_))
    }

    /// Has a daemon lead, if nobody else does; returns whether it does.
    pub(super) fn lead(&self, daemon: &str) -> Result<bool> {
        let term = i64::try_from(TERM.as_micros()).unwrap_or(i64::MAX);
        let text = format!(
            "INSERT INTO @leader (one, daemon, until) VALUES (1, ?1, {NOW} + ?2)
             ON CONFLICT (one) DO UPDATE SET daemon = excluded.daemon, until = excluded.until
             WHERE @leader.daemon = excluded.daemon OR @leader.until < {NOW}"
        );
        self.database.write("see who leads", |work| Ok(work.execute(&text, values![daemon, term])? == 1))
    }

    pub(super) fn end_lead(&self, daemon: &str) -> Result<()> {
        self.change("let another daemon lead", "DELETE FROM @leader WHERE daemon = ?1", values![daemon])
    }
}

/// Leads, or waits for it, until the site ends.
pub(crate) fn work(site: &Inner, stop: &AtomicBool) {
    if !site.catalog.is_shared() {
        return;
    }
    let lead = &site.lead;
    let mut asked: Option<Instant> = None;
    let mut fails = false;
    while !stop.load(Ordering::Acquire) {
        if asked.is_none_or(|asked| asked.elapsed() >= EVERY) {
            // From before it was asked: the answer may have been long on its way.
            let now = Instant::now();
            asked = Some(now);
            match site.catalog.lead(&lead.daemon) {
                Ok(leads) => {
                    fails = false;
                    if lead.set(leads.then_some(now + TERM)) {
                        let what = if leads { "this daemon leads" } else { "another daemon leads" };
                        site.complain(&format!("{what}: schedules, sources and notices are the leader's"));
                    }
                }
                // What was promised holds until its time is over.
                Err(error) if !fails => {
                    fails = true;
                    site.complain(&format!("it cannot be seen who leads: {}", with_causes(&error)));
                }
                Err(_) => {}
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    lead.set(None);
    if let Err(error) = site.catalog.end_lead(&lead.daemon) {
        site.complain(&format!("the others wait {} s to lead: {}", TERM.as_secs(), with_causes(&error)));
    }
}
