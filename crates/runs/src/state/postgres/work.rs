//! One use of a connection: statements that are prepared once per connection.

use std::collections::HashMap;
use std::io::Write;

use postgres::types::ToSql;
use postgres::{GenericClient, Row, Statement, Transaction};

use super::schema::Lock;
use crate::{Event, RunId};

/// The server's clock, in microseconds since 1970: of this moment, not of the transaction's beginning.
pub(super) const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Statements that a connection keeps prepared.
const STATEMENTS_MAX: usize = 200;

/// What a statement is given.
pub type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// What fails inside of a use of a connection.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server, or the way to it.
    #[error(transparent)]
    Server(#[from] postgres::Error),
    /// Something cannot be kept as JSON.
    #[error("cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// What the user of the connection says.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// A connection with its prepared statements.
pub struct Work<'a, C> {
    pub(super) client: &'a mut C,
    pub(super) statements: &'a mut HashMap<String, Statement>,
}

/// A use that changes something.
pub(super) type Writing<'a, 'b> = Work<'a, Transaction<'b>>;

impl<C: GenericClient> Work<'_, C> {
    fn prepared(&mut self, text: &str) -> Result<Statement, Failure> {
        if let Some(statement) = self.statements.get(text) {
            return Ok(statement.clone());
        }
        // Whoever makes statements as they are needed does not fill our memory and the server's with them.
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        let statement = self.client.prepare(text)?;
        self.statements.insert(text.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Does something; returns how many rows it was done to.
    ///
    /// # Errors
    /// The server refuses it, or is gone; as below.
    pub fn execute(&mut self, text: &str, values: Values<'_>) -> Result<u64, Failure> {
        let statement = self.prepared(text)?;
        Ok(self.client.execute(&statement, values)?)
    }

    /// Finds rows.
    ///
    /// # Errors
    /// See [`Work::execute`].
    pub fn rows(&mut self, text: &str, values: Values<'_>) -> Result<Vec<Row>, Failure> {
        let statement = self.prepared(text)?;
        Ok(self.client.query(&statement, values)?)
    }

    /// Finds the one row that there is.
    ///
    /// # Errors
    /// There is none, or several; see [`Work::execute`].
    pub fn one(&mut self, text: &str, values: Values<'_>) -> Result<Row, Failure> {
        let statement = self.prepared(text)?;
        Ok(self.client.query_one(&statement, values)?)
    }

    /// Does several things that are given no values.
    ///
    /// # Errors
    /// See [`Work::execute`].
    pub fn batch(&mut self, text: &str) -> Result<(), Failure> {
        Ok(self.client.batch_execute(text)?)
    }

    /// Puts rows into a table, by a statement `COPY … FROM STDIN` and in its text form; returns how many they were.
    ///
    /// # Errors
    /// See [`Work::execute`].
    pub fn copy_in(&mut self, text: &str, rows: &[u8]) -> Result<u64, Failure> {
        let mut writer = self.client.copy_in(text)?;
        writer.write_all(rows).map_err(|error| Failure::Other(error.into()))?;
        Ok(writer.finish()?)
    }

    /// Finds one row, where there is one.
    ///
    /// # Errors
    /// There are several; see [`Work::execute`].
    pub fn optional(&mut self, text: &str, values: Values<'_>) -> Result<Option<Row>, Failure> {
        let statement = self.prepared(text)?;
        Ok(self.client.query_opt(&statement, values)?)
    }
}

impl Writing<'_, '_> {
    /// Waits for a lock, which the end of the transaction opens.
    pub(super) fn lock(&mut self, lock: Lock) -> Result<(), Failure> {
        let (class, object) = lock.numbers();
        self.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&class, &object]).map(drop)
    }

    /// Keeps events of runs. The last thing of a transaction: see the module's head.
    pub(super) fn put_events(&mut self, events: &[(&RunId, &Event)]) -> Result<(), Failure> {
        if events.is_empty() {
            return Ok(());
        }
        let runs: Vec<&str> = events.iter().map(|(run, _)| run.as_str()).collect();
        let bodies: Vec<String> =
            events.iter().map(|(_, event)| serde_json::to_string(event)).collect::<Result<_, _>>()?;
        self.lock(Lock::Events)?;
        let insert = format!(
            "INSERT INTO leeward_events (run, at, body)
             SELECT run, {NOW}, body FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS given (run, body, place)
             ORDER BY place"
        );
        self.execute(&insert, &[&runs, &bodies]).map(drop)
    }
}
