//! The tables of a site's state: the same ones in files and in a database that daemons share.
//!
//! Their columns are the same, too (`leeward_runs::state`, `crate::catalog`), but for truths, which files have as numbers, and
//! the names of tables, which begin with `leeward_` in the database.

use leeward_runs::state::PostgresFailure;
use postgres::Row;
use postgres::types::Type;
use rusqlite::types::Value;

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// Its name in files.
    pub name: &'static str,
    /// What its rows are, for people.
    pub rows: &'static str,
    /// The columns by which its rows are told apart.
    pub key: &'static [Key],
}

/// A column of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// A number; `true` where the database gives the next one.
    Number(&'static str, bool),
    Text(&'static str),
}

const fn table(name: &'static str, rows: &'static str, key: &'static [Key]) -> Table {
    Table { name, rows, key }
}

const NUMBERED: &[Key] = &[Key::Number("number", true)];

/// The tables of the file of runs.
pub(super) const RUNS: [Table; 6] = [
    table("runs", "runs", &[Key::Text("id")]),
    table("pools", "places in pools", &[Key::Text("pool"), Key::Text("run")]),
    table("events", "events of runs", NUMBERED),
    table("logs", "lines of logs", NUMBERED),
    table("progress", "steps with progress", &[Key::Text("run"), Key::Text("step")]),
    table("checkpoints", "checkpoints of steps", &[Key::Text("run"), Key::Text("step")]),
];

/// The tables of the catalog.
pub(super) const CATALOG: [Table; 7] = [
    table("hints", "events about objects", NUMBERED),
    table("seen", "objects seen", &[Key::Text("source"), Key::Text("object")]),
    table("schedules", "schedules", &[Key::Text("name")]),
    table("told_up_to", "marks of what was told", &[Key::Number("one", false)]),
    table("deliveries", "notices", NUMBERED),
    table("delivered", "things delivered", &[Key::Text("target"), Key::Text("id")]),
    table("worker_tokens", "tokens of workers", &[Key::Text("digest")]),
];

/// All of them.
pub(super) fn all() -> impl Iterator<Item = Table> {
    RUNS.into_iter().chain(CATALOG)
}

impl Table {
    /// The column whose next number the database gives.
    pub fn numbered(&self) -> Option<&'static str> {
        self.key.iter().find_map(|key| match key {
            Key::Number(column, true) => Some(*column),
            _ => None,
        })
    }

    /// The order of its rows in a file: that of their bytes.
    pub fn order_in_file(&self) -> String {
        self.order(|column| column.to_owned())
    }

    /// The same order in the database, whatever language it was made for.
    pub fn order_in_shared(&self) -> String {
        self.order(|column| format!("{column} COLLATE \"C\""))
    }

    fn order(&self, text: impl Fn(&str) -> String) -> String {
        let columns = self.key.iter().map(|key| match key {
            Key::Number(column, _) => (*column).to_owned(),
            Key::Text(column) => text(column),
        });
        columns.collect::<Vec<_>>().join(", ")
    }
}

/// What the database has in a column, as a file has it.
pub(super) fn value(row: &Row, index: usize) -> Result<Value, PostgresFailure> {
    Ok(match *row.columns()[index].type_() {
        Type::INT8 => row.try_get::<_, Option<i64>>(index)?.map_or(Value::Null, Value::Integer),
        Type::BOOL => {
            row.try_get::<_, Option<bool>>(index)?.map_or(Value::Null, |truth| Value::Integer(truth.into()))
        }
        _ => row.try_get::<_, Option<String>>(index)?.map_or(Value::Null, Value::Text),
    })
}
