//! The database behind the catalog: a file of SQLite, or PostgreSQL where several daemons share it.
//!
//! Statements are written once, for both. In them `?1` is the first value, and `@hints` is the table `hints`: in a shared
//! database its name begins with `leeward_`. Everything in the tables is a text or a whole number, or absent.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::sync::{Mutex, PoisonError};

use leeward_runs::state::{PostgresFailure, PostgresPool, PostgresWork};
use postgres::GenericClient;
use postgres::types::{FromSql, IsNull, ToSql, Type, accepts, private::BytesMut, to_sql_checked};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, TransactionBehavior};

use crate::{Error, Result};

/// What a statement is given, and what it finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Absent,
    Number(i64),
    Text(String),
}

/// What fails inside of a use of the database.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Postgres(#[from] PostgresFailure),
    #[error("{0} cannot be written as JSON")]
    Json(&'static str, #[source] serde_json::Error),
    #[error("the column {column} has {found}")]
    Column { column: String, found: &'static str },
}

/// What was found, by the names of columns.
#[derive(Debug)]
pub(crate) struct Row(Vec<(String, Value)>);

/// One use of the database.
pub(crate) trait Work {
    /// Does something; returns how many rows it was done to.
    fn execute(&mut self, text: &str, values: &[Value]) -> Result<u64, Fault>;

    /// Finds rows, or those that were changed, where the statement returns them.
    fn rows(&mut self, text: &str, values: &[Value]) -> Result<Vec<Row>, Fault>;

    /// Finds one row, where there is one.
    fn row(&mut self, text: &str, values: &[Value]) -> Result<Option<Row>, Fault> {
        Ok(self.rows(text, values)?.into_iter().next())
    }
}

/// The database.
pub(crate) enum Database {
    File { place: String, connection: Mutex<Connection> },
    Shared(Box<PostgresPool>),
}

impl Database {
    /// Reads. What is read by several statements need not be of one moment.
    pub fn read<T>(
        &self,
        action: &'static str,
        act: impl FnOnce(&mut dyn Work) -> Result<T, Fault>,
    ) -> Result<T> {
        match self {
            Self::File { place, connection } => {
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                act(&mut &*connection).map_err(failed(place, action))
            }
            Self::Shared(pool) => Ok(pool.read(action, |work| act(work).map_err(PostgresFailure::from))?),
        }
    }

    /// Changes something, wholly or not at all; it is on disk when this returns.
    pub fn write<T>(
        &self,
        action: &'static str,
        act: impl FnOnce(&mut dyn Work) -> Result<T, Fault>,
    ) -> Result<T> {
        match self {
            Self::File { place, connection } => {
                let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                let written = || {
                    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                    let result = act(&mut &*transaction)?;
                    transaction.commit()?;
                    Ok(result)
                };
                written().map_err(failed(place, action))
            }
            Self::Shared(pool) => Ok(pool.write(action, |work| act(work).map_err(PostgresFailure::from))?),
        }
    }
}

fn failed(place: &str, action: &'static str) -> impl FnOnce(Fault) -> Error + use<> {
    let place = place.to_owned();
    move |source| Error::Catalog { place, action, source: source.into() }
}

impl Work for &Connection {
    fn execute(&mut self, text: &str, values: &[Value]) -> Result<u64, Fault> {
        let changed = self.prepare_cached(&for_file(text))?.execute(rusqlite::params_from_iter(values))?;
        Ok(changed as u64)
    }

    fn rows(&mut self, text: &str, values: &[Value]) -> Result<Vec<Row>, Fault> {
        let mut statement = self.prepare_cached(&for_file(text))?;
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut found = statement.query(rusqlite::params_from_iter(values))?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let value = |(index, name): (usize, &String)| {
                let value = match row.get_ref(index)? {
                    ValueRef::Null => Value::Absent,
                    ValueRef::Integer(number) => Value::Number(number),
                    ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
                    ValueRef::Real(_) | ValueRef::Blob(_) => return Err(strange(name)),
                };
                Ok((name.clone(), value))
            };
            rows.push(Row(names.iter().enumerate().map(value).collect::<Result<_, Fault>>()?));
        }
        Ok(rows)
    }
}

impl<C: GenericClient> Work for PostgresWork<'_, C> {
    fn execute(&mut self, text: &str, values: &[Value]) -> Result<u64, Fault> {
        Ok(PostgresWork::execute(self, &for_shared(text), &references(values))?)
    }

    fn rows(&mut self, text: &str, values: &[Value]) -> Result<Vec<Row>, Fault> {
        let found = PostgresWork::rows(self, &for_shared(text), &references(values))?;
        let row = |row: &postgres::Row| {
            let value = |(index, column): (usize, &postgres::Column)| {
                let value = row.try_get(index).map_err(PostgresFailure::from)?;
                Ok((column.name().to_owned(), value))
            };
            Ok(Row(row.columns().iter().enumerate().map(value).collect::<Result<_, Fault>>()?))
        };
        found.iter().map(row).collect()
    }
}

fn references(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

fn for_file(text: &str) -> Cow<'_, str> {
    if text.contains('@') { text.replace('@', "").into() } else { text.into() }
}

fn for_shared(text: &str) -> String {
    text.replace('@', "leeward_").replace('?', "$")
}

fn strange(column: &str) -> Fault {
    Fault::Column { column: column.to_owned(), found: "neither a text nor a whole number" }
}

impl From<Fault> for PostgresFailure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Postgres(failure) => failure,
            other => Self::Other(other.into()),
        }
    }
}

impl Row {
    fn value(&self, column: &str) -> &Value {
        self.0.iter().find(|(name, _)| name == column).map_or(&Value::Absent, |(_, value)| value)
    }

    /// A text.
    pub fn text(&self, column: &str) -> Result<String, Fault> {
        self.optional_text(column)?.ok_or_else(|| absent(column))
    }

    /// A text, where there is one.
    pub fn optional_text(&self, column: &str) -> Result<Option<String>, Fault> {
        match self.value(column) {
            Value::Absent => Ok(None),
            Value::Text(text) => Ok(Some(text.clone())),
            Value::Number(_) => Err(Fault::Column { column: column.to_owned(), found: "a number" }),
        }
    }

    /// A number.
    pub fn number(&self, column: &str) -> Result<i64, Fault> {
        self.optional_number(column)?.ok_or_else(|| absent(column))
    }

    /// A number, where there is one.
    pub fn optional_number(&self, column: &str) -> Result<Option<i64>, Fault> {
        match self.value(column) {
            Value::Absent => Ok(None),
            Value::Number(number) => Ok(Some(*number)),
            Value::Text(_) => Err(Fault::Column { column: column.to_owned(), found: "a text" }),
        }
    }
}

fn absent(column: &str) -> Fault {
    Fault::Column { column: column.to_owned(), found: "nothing" }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Number(truth.into())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Into::into)
    }
}

/// Values for a statement.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::catalog::Value::from($value)),*] };
}
pub(crate) use values;

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Absent => ValueRef::Null,
            Self::Number(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

impl ToSql for Value {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match self {
            Self::Absent => Ok(IsNull::Yes),
            Self::Number(number) => number.to_sql_checked(kind, out),
            // PostgreSQL keeps no character zero; what has one is no name of anything.
            Self::Text(text) => text.replace('\0', "\u{fffd}").to_sql_checked(kind, out),
        }
    }

    accepts!(INT8, TEXT);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        match *kind {
            Type::INT8 => i64::from_sql(kind, raw).map(Self::Number),
            _ => String::from_sql(kind, raw).map(Self::Text),
        }
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self::Absent)
    }

    accepts!(INT8, TEXT);
}
