//! The database into which the state goes.

use leeward_runs::state::{PostgresFailure, PostgresOptions, PostgresPool, PostgresState, PostgresWork};
use postgres::{GenericClient, Transaction};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{OptionalExtension, Row};

use super::super::tables::{self, Table, value};
use super::files::{Files, failed};
use super::{Halt, Mark};
use crate::catalog::Catalog;
use crate::catalog::lead::NOW;
use crate::config::SharedDatabase;
use crate::{Error, Result};

/// Rows that are sent in one statement, at most.
const ROWS_AT_ONCE: u64 = 2000;
/// And their bytes, after which no other row is added.
const BYTES_AT_ONCE: usize = 4 << 20;
/// Rows that are read back at once: documents of runs may be large.
const READ_AT_ONCE: u32 = 200;

/// The database.
pub(super) struct Shared {
    options: PostgresOptions,
    pool: PostgresPool,
}

impl Shared {
    pub fn of(database: &SharedDatabase) -> Result<Self> {
        let options = database.options()?;
        Ok(Self { pool: PostgresPool::new(&options)?, options })
    }

    /// Where it is, without secrets.
    pub fn place(&self) -> &str {
        self.pool.place()
    }

    /// Whether its tables are of this release. Those that are not there are made, if they are to be.
    pub fn examine(&self, make: bool) -> Result<()> {
        let is_there = |name: &str| {
            self.pool.read("see what the database has", |work| has_table(work, name)).map_err(Error::from)
        };
        if make || is_there("catalog_schema")? {
            Catalog::open_shared(&self.options)?;
        }
        if make || is_there("schema")? {
            PostgresState::open(&self.options)?;
        }
        Ok(())
    }

    /// What is there.
    pub fn held(&self) -> Result<Held> {
        Ok(self.pool.read("see what the database has", Held::look)?)
    }

    /// Whether there is nothing of a site. Counts nothing: a daemon that starts asks, and the tables may be large.
    pub fn is_empty(&self) -> Result<bool> {
        let found = self.pool.read("see what the database has", |work| {
            for name in tables::all().map(|table| table.name).chain(["moved"]) {
                let some = format!("SELECT 1 FROM leeward_{name} LIMIT 1");
                if has_table(work, name)? && work.optional(&some, &[])?.is_some() {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        Ok(found?)
    }

    /// Whether a move was done. Waits for one that is just being committed.
    pub fn has(&self, id: &str) -> Result<bool> {
        let found = self.pool.read("see whether the state was moved", |work| {
            if has_table(work, "told_up_to")? {
                // The move has this table for itself until its end; only what is asked afterwards is sure to see it.
                work.rows("SELECT one FROM leeward_told_up_to", &[])?;
            }
            if !has_table(work, "moved")? {
                return Ok(false);
            }
            Ok(work.optional("SELECT 1 FROM leeward_moved WHERE id = $1", &[&id])?.is_some())
        });
        Ok(found?)
    }

    /// Changes it in one transaction.
    pub fn write<T>(
        &self,
        action: &'static str,
        act: impl FnOnce(&mut PostgresWork<'_, Transaction<'_>>) -> Result<T, PostgresFailure>,
    ) -> Result<T> {
        Ok(self.pool.write(action, act)?)
    }
}

fn has_table<C: GenericClient>(work: &mut PostgresWork<'_, C>, name: &str) -> Result<bool, PostgresFailure> {
    Ok(work.one(&format!("SELECT to_regclass('leeward_{name}') IS NOT NULL"), &[])?.try_get(0)?)
}

/// What is in a database already.
#[derive(Debug, Default)]
pub(super) struct Held {
    rows: Vec<(&'static str, i64)>,
    /// The daemon that leads there, and for how many seconds.
    leader: Option<(String, i64)>,
    /// Whether a state was moved there.
    was_filled: bool,
}

impl Held {
    pub fn look<C: GenericClient>(work: &mut PostgresWork<'_, C>) -> Result<Self, PostgresFailure> {
        let mut held = Self::default();
        if has_table(work, "leader")? {
            let text = format!(
                "SELECT daemon, (until - {NOW}) / 1000000 + 1 FROM leeward_leader WHERE until > {NOW}"
            );
            if let Some(row) = work.optional(&text, &[])? {
                held.leader = Some((row.try_get(0)?, row.try_get(1)?));
                // Who is at work there is not kept waiting by counts.
                return Ok(held);
            }
        }
        for table in tables::all() {
            if has_table(work, table.name)? {
                let count =
                    work.one(&format!("SELECT count(*) FROM leeward_{}", table.name), &[])?.try_get(0)?;
                held.rows.extend((count > 0).then_some((table.rows, count)));
            }
        }
        held.was_filled =
            has_table(work, "moved")? && work.optional("SELECT 1 FROM leeward_moved LIMIT 1", &[])?.is_some();
        Ok(held)
    }

    /// Refuses a database that is not empty.
    pub fn refuse(&self, place: &str) -> Result<()> {
        if let Some((daemon, seconds)) = &self.leader {
            return Err(Error::Conflict(format!(
                "{place}: daemon {daemon} works there: end all daemons of this database first; one that was killed is missed in \
                 {seconds} s"
            )));
        }
        if self.rows.is_empty() && !self.was_filled {
            return Ok(());
        }
        let rows: Vec<_> = self.rows.iter().map(|(rows, count)| format!("{count} {rows}")).collect();
        let there = if rows.is_empty() { "a state that was moved there".to_owned() } else { rows.join(", ") };
        Err(Error::Refused {
            place: place.to_owned(),
            what: format!(
                "there is the state of a site already ({there}), and two are never merged: name an empty database in [database]; \
                 if nothing of that state is wanted, make this database anew"
            ),
        })
    }
}

/// Lets nobody else read or write the tables until the end of the transaction: a daemon that starts waits, and then finds all
/// of it. No statement is as long as a move, and a process that is cut off is missed.
pub(super) fn be_alone(work: &mut PostgresWork<'_, Transaction<'_>>) -> Result<(), PostgresFailure> {
    let names: Vec<_> = tables::all().map(|table| format!("leeward_{}", table.name)).collect();
    work.batch(&format!(
        "SET LOCAL statement_timeout = '10min'; SET LOCAL idle_in_transaction_session_timeout = '60s';
         LOCK TABLE {}, leeward_leader IN ACCESS EXCLUSIVE MODE",
        names.join(", ")
    ))
}

/// Is told how many rows are done.
type Tell<'a> = &'a mut dyn FnMut(u64) -> Result<()>;

/// Copies a table of the files.
pub(super) fn copy(
    work: &mut PostgresWork<'_, Transaction<'_>>,
    files: &Files,
    table: &Table,
    tell: Tell<'_>,
) -> Result<(), Halt> {
    let mut batch = Batch::default();
    each_row(files, table, |columns, row| {
        if batch.rows == ROWS_AT_ONCE || batch.text.len() >= BYTES_AT_ONCE {
            batch.send(work, table, columns)?;
            tell(batch.sent)?;
        }
        batch.add(&values(files, table, row)?);
        Ok(())
    })?;
    let columns = columns_of(files, table)?;
    batch.send(work, table, &columns)?;
    Ok(tell(batch.sent)?)
}

/// Rows on their way, in the text form of COPY.
#[derive(Default)]
struct Batch {
    text: Vec<u8>,
    rows: u64,
    sent: u64,
}

impl Batch {
    fn add(&mut self, values: &[Value]) {
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                self.text.push(b'\t');
            }
            match value {
                Value::Integer(number) => self.text.extend_from_slice(number.to_string().as_bytes()),
                Value::Text(text) => self.add_text(text),
                _ => self.text.extend_from_slice(b"\\N"),
            }
        }
        self.text.push(b'\n');
        self.rows += 1;
    }

    fn add_text(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                b'\\' => self.text.extend_from_slice(b"\\\\"),
                b'\n' => self.text.extend_from_slice(b"\\n"),
                b'\r' => self.text.extend_from_slice(b"\\r"),
                b'\t' => self.text.extend_from_slice(b"\\t"),
                byte => self.text.push(byte),
            }
        }
    }

    fn send(
        &mut self,
        work: &mut PostgresWork<'_, Transaction<'_>>,
        table: &Table,
        columns: &[String],
    ) -> Result<(), PostgresFailure> {
        if self.rows > 0 {
            let text = format!("COPY leeward_{} ({}) FROM STDIN", table.name, columns.join(", "));
            self.sent += work.copy_in(&text, &self.text)?;
            self.text.clear();
            self.rows = 0;
        }
        Ok(())
    }
}

/// Reads a table back, and compares each row with that of the files.
pub(super) fn compare(
    work: &mut PostgresWork<'_, Transaction<'_>>,
    files: &Files,
    table: &Table,
    tell: Tell<'_>,
) -> Result<(), Halt> {
    let columns = columns_of(files, table)?.join(", ");
    work.batch(&format!(
        "DECLARE moved NO SCROLL CURSOR FOR SELECT {columns} FROM leeward_{} ORDER BY {}",
        table.name,
        table.order_in_shared()
    ))?;
    let fetch = format!("FETCH {READ_AT_ONCE} FROM moved -- {}", table.name);
    let (mut there, mut done) = (Vec::new().into_iter(), 0);
    let mut next = |work: &mut PostgresWork<'_, Transaction<'_>>| {
        if let Some(row) = there.next() {
            return Ok(Some(row));
        }
        there = work.rows(&fetch, &[])?.into_iter();
        Ok::<_, PostgresFailure>(there.next())
    };
    each_row(files, table, |_, row| {
        let wanted = values(files, table, row)?;
        let found = match next(work)? {
            Some(row) => (0..row.len()).map(|index| value(&row, index)).collect::<Result<Vec<_>, _>>()?,
            None => Vec::new(),
        };
        if found != wanted {
            return Err(differs(table, done).into());
        }
        done += 1;
        if done % u64::from(READ_AT_ONCE) == 0 {
            tell(done)?;
        }
        Ok(())
    })?;
    if next(work)?.is_some() {
        return Err(differs(table, done).into());
    }
    work.batch("CLOSE moved")?;
    Ok(tell(done)?)
}

fn differs(table: &Table, row: u64) -> Error {
    Error::Other(format!(
        "leeward_{} does not read back as the files have it, from row {row} on: nothing was moved; see what changes rows in that \
         database",
        table.name
    ))
}

/// Has the database go on with numbers where the files are: none is given twice, also of what was forgotten since.
pub(super) fn count_on(
    work: &mut PostgresWork<'_, Transaction<'_>>,
    files: &Files,
    table: &Table,
) -> Result<(), Halt> {
    let Some(column) = table.numbered() else { return Ok(()) };
    let last =
        files.of(table)?.query_row("SELECT seq FROM sqlite_sequence WHERE name = ?1", [table.name], |row| {
            row.get::<_, i64>(0)
        });
    let last = last.optional().map_err(failed(files.path(table), "read the file"))?;
    if let Some(last) = last.filter(|last| *last > 0) {
        let text = format!("SELECT setval(pg_get_serial_sequence('leeward_{}', '{column}'), $1)", table.name);
        work.execute(&text, &[&last])?;
    }
    Ok(())
}

/// Keeps which move it was.
pub(super) fn remember(
    work: &mut PostgresWork<'_, Transaction<'_>>,
    mark: &Mark,
) -> Result<(), PostgresFailure> {
    work.batch(
        "CREATE TABLE IF NOT EXISTS leeward_moved (id TEXT PRIMARY KEY, site TEXT NOT NULL, at BIGINT NOT NULL)",
    )?;
    work.execute(
        "INSERT INTO leeward_moved (id, site, at) VALUES ($1, $2, $3)",
        &[&mark.id, &mark.site, &mark.at.as_microsecond()],
    )
    .map(drop)
}

fn columns_of(files: &Files, table: &Table) -> Result<Vec<String>> {
    let connection = files.of(table)?;
    let statement = connection
        .prepare(&format!("SELECT * FROM {}", table.name))
        .map_err(failed(files.path(table), "read the file"))?;
    Ok(statement.column_names().map(str::to_owned).collect())
}

/// Reads a table of the files row by row, in the order of its key.
fn each_row(
    files: &Files,
    table: &Table,
    mut act: impl FnMut(&[String], &Row<'_>) -> Result<(), Halt>,
) -> Result<(), Halt> {
    let unread = || failed(files.path(table), "read the file");
    let connection = files.of(table)?;
    let text = format!("SELECT * FROM {} ORDER BY {}", table.name, table.order_in_file());
    let mut statement = connection.prepare(&text).map_err(unread())?;
    let columns: Vec<_> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.query([]).map_err(unread())?;
    while let Some(row) = rows.next().map_err(unread())? {
        act(&columns, row)?;
    }
    Ok(())
}

/// A row of the files as the database is to have it: it keeps no character zero.
fn values(files: &Files, table: &Table, row: &Row<'_>) -> Result<Vec<Value>> {
    let strange = || Error::Refused {
        place: files.path(table).display().to_string(),
        what: format!("{} has what is neither a text nor a number: it is damaged", table.name),
    };
    let value = |index| {
        let found = row.get_ref(index).map_err(failed(files.path(table), "read the file"))?;
        Ok(match found {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Integer(number),
            ValueRef::Text(text) => {
                Value::Text(std::str::from_utf8(text).map_err(|_| strange())?.replace('\0', "\u{fffd}"))
            }
            ValueRef::Real(_) | ValueRef::Blob(_) => return Err(strange()),
        })
    };
    (0..row.as_ref().column_count()).map(value).collect()
}
