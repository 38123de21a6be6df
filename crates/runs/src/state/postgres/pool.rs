//! A few connections, made when they are needed and again when the server has restarted.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postgres::{Client, IsolationLevel, Statement, Transaction};

use super::connect::{Connector, PostgresOptions};
use super::work::{Failure, Work};
use crate::{Error, Result};

/// The most connections at once. The engine's thread writes one change at a time; the others are for steps and readers.
const CONNECTIONS_MAX: usize = 6;
/// How long a use waits for a connection.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// A connection that was idle for longer is asked whether it still lives.
const DOUBT_AFTER: Duration = Duration::from_secs(1);

/// No statement waits for ever, and a daemon that stops in the middle of a transaction (paused, cut off) does not keep the
/// others from the locks it holds. Commits reach the disk even where the server's default says otherwise.
const SETTINGS: &str = "
SET statement_timeout = '30s';
SET lock_timeout = '20s';
SET idle_in_transaction_session_timeout = '10s';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
";

/// Connections to a database: a few, made when they are needed.
pub struct Pool {
    connector: Connector,
    idle: Mutex<Idle>,
    given_back: Condvar,
}

#[derive(Default)]
struct Idle {
    sessions: Vec<Session>,
    out: usize,
}

struct Session {
    client: Client,
    statements: HashMap<String, Statement>,
    used: Instant,
}

impl Pool {
    /// Those to a database. None is made yet.
    ///
    /// # Errors
    /// The certificates of authorities cannot be read.
    pub fn new(options: &PostgresOptions) -> Result<Self> {
        let connector = Connector::new(options)?;
        Ok(Self { connector, idle: Mutex::default(), given_back: Condvar::new() })
    }

    /// Where it is, for messages; without secrets.
    #[must_use]
    pub fn place(&self) -> &str {
        self.connector.place()
    }

    /// Reads with one statement. `action` completes "cannot …".
    ///
    /// # Errors
    /// The server cannot be reached, it refuses the statement, or `act` fails.
    pub fn read<T>(
        &self,
        action: &'static str,
        act: impl FnOnce(&mut Work<'_, Client>) -> Result<T, Failure>,
    ) -> Result<T> {
        self.with(action, |session| {
            act(&mut Work { client: &mut session.client, statements: &mut session.statements })
        })
    }

    /// Writes in one transaction: on the server's disk when this returns. A failure may mean that only the answer was lost.
    ///
    /// # Errors
    /// As [`Pool::read`].
    pub fn write<T>(
        &self,
        action: &'static str,
        act: impl FnOnce(&mut Work<'_, Transaction<'_>>) -> Result<T, Failure>,
    ) -> Result<T> {
        self.with(action, |session| {
            // A change compares under a lock on the row and must then see what the one before it committed.
            let level = IsolationLevel::ReadCommitted;
            let mut transaction = session.client.build_transaction().isolation_level(level).start()?;
            let result = act(&mut Work { client: &mut transaction, statements: &mut session.statements })?;
            transaction.commit()?;
            Ok(result)
        })
    }

    fn with<T>(
        &self,
        action: &'static str,
        act: impl FnOnce(&mut Session) -> Result<T, Failure>,
    ) -> Result<T> {
        let mut place = self.take(action)?;
        let result = place.session().and_then(act);
        result.map_err(|error| Error::Database {
            place: self.place().to_owned(),
            action,
            source: Box::new(error),
        })
    }

    /// Takes a place among the connections, with one that was used before where there is one.
    fn take(&self, action: &'static str) -> Result<Place<'_>> {
        let end = Instant::now() + WAIT_MAX;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while idle.out >= CONNECTIONS_MAX {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let source = format!("all {CONNECTIONS_MAX} connections are in use").into();
                return Err(Error::Database { place: self.place().to_owned(), action, source });
            }
            idle = self.given_back.wait_timeout(idle, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        idle.out += 1;
        Ok(Place { pool: self, session: idle.sessions.pop() })
    }
}

/// A place among the connections; given back when dropped, with its connection where that still lives.
struct Place<'a> {
    pool: &'a Pool,
    session: Option<Session>,
}

impl Place<'_> {
    /// A connection that lives, as far as can be known.
    fn session(&mut self) -> Result<&mut Session, Failure> {
        let living = self.session.take().and_then(|mut session| session.lives().then_some(session));
        let session = match living {
            Some(session) => session,
            None => Session::new(&self.pool.connector)?,
        };
        Ok(self.session.insert(session))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.out -= 1;
        if let Some(mut session) = self.session.take().filter(|session| !session.client.is_closed()) {
            session.used = Instant::now();
            idle.sessions.push(session);
        }
        drop(idle);
        self.pool.given_back.notify_one();
    }
}

impl Session {
    fn new(connector: &Connector) -> Result<Self, Failure> {
        let mut client = connector.connect()?;
        client.batch_execute(SETTINGS)?;
        Ok(Self { client, statements: HashMap::new(), used: Instant::now() })
    }

    /// Whether it lives: one that was used just now is believed to.
    fn lives(&mut self) -> bool {
        let is_fresh = self.used.elapsed() < DOUBT_AFTER;
        !self.client.is_closed() && (is_fresh || self.client.is_valid(Duration::from_secs(2)).is_ok())
    }
}
