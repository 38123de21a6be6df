//! One use of a connection: statements that are prepared once per connection.

use std::collections::HashMap;

use postgres::types::ToSql;
use postgres::{GenericClient, Row, Statement, Transaction};

use super::schema::Lock;
use crate::{Event, RunId};

/// The server's clock, in microseconds since 1970: of this moment, not of the transaction's beginning.
pub(super) const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// What a statement is given.
pub(super) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// What fails inside of a use of a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Server(#[from] postgres::Error),
    #[error("cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// A connection with its prepared statements.
pub(super) struct Work<'a, C> {
    pub client: &'a mut C,
    pub statements: &'a mut HashMap<String, Statement>,
}

/// A use that changes something.
pub(super) type Writing<'a, 'b> = Work<'a, Transaction<'b>>;

impl<C: GenericClient> Work<'_, C> {
    fn prepared(&mut self, text: &str) -> Result<Statement, Failure> {
        if let Some(statement) = self.statements.get(text) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(text)?;
        self.statements.insert(text.to_owned(), statement.clone());
        Ok(statement)
    }

    pub fn execute(&mut self, text: &str, values: Values<'_>) -> Result<u64, Failure> {
        let statement = self.prepared(text)?;
        Ok(self.client.execute(&statement, values)?)
    }

    pub fn rows(&mut self, text: &str, values: Values<'_>) -> Result<Vec<Row>, Failure> {
        let statement = self.prepared(text)?;
        Ok(self.client.query(&statement, values)?)
    }

    pub fn one(&mut self, text: &str, values: Values<'_>) -> Result<Row, Failure> {
        let statement = self.prepared(text)?;
        Ok(self.client.query_one(&statement, values)?)
    }

    pub fn optional(&mut self, text: &str, values: Values<'_>) -> Result<Option<Row>, Failure> {
        let statement = self.prepared(text)?;
        Ok(self.client.query_opt(&statement, values)?)
    }
}

impl Writing<'_, '_> {
    /// Waits for a lock, which the end of the transaction opens.
    pub fn lock(&mut self, lock: Lock) -> Result<(), Failure> {
        let (class, object) = lock.numbers();
        self.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&class, &object]).map(drop)
    }

    /// Keeps events of runs. The last thing of a transaction: see the module's head.
    pub fn put_events(&mut self, events: &[(&RunId, &Event)]) -> Result<(), Failure> {
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
