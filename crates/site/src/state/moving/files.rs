//! The files of one daemon, held against every other.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use leeward_runs::state::SqliteState;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::super::tables::{self, RUNS, Table};
use crate::catalog::{self, Catalog};
use crate::site::be_alone;
use crate::{Config, Error, Result};

/// The files, and that no daemon works on them.
pub(super) struct Files {
    runs: PathBuf,
    catalog: PathBuf,
    _alone: File,
}

impl Files {
    /// Takes them for this process alone.
    pub fn take(config: &Config) -> Result<Self> {
        if !config.state.is_dir() {
            return Err(Error::NotFound(format!(
                "{}: there is no such directory, so there is nothing to move: daemons may start on the database",
                config.state.display()
            )));
        }
        let alone = be_alone(&config.state)?;
        Ok(Self { runs: config.runs_file(), catalog: config.catalog_file(), _alone: alone })
    }

    /// Whether they are there, whole, and of no newer release. Changes nothing.
    pub fn examine(&self) -> Result<()> {
        for (file, known) in [(&self.runs, SqliteState::SCHEMA), (&self.catalog, catalog::SCHEMA)] {
            let place = file.display().to_string();
            if !file.exists() {
                return Err(Error::NotFound(format!(
                    "{place}: there is no such file: no daemon has worked with files here, and daemons may start on the database"
                )));
            }
            let looked = open(file).and_then(|connection| {
                let verdict: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
                Ok((
                    verdict,
                    connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?,
                ))
            });
            let (verdict, found) = looked.map_err(failed(file, "read the file"))?;
            let what = match (verdict.as_str(), found) {
                ("ok", found) if found <= known => continue,
                ("ok", found) => format!(
                    "it is of a newer release (schema {found}, this one knows {known}): move it with that release"
                ),
                (verdict, _) => format!(
                    "it is damaged: {verdict}; bring the state back with `leeward server restore-state`, then move it"
                ),
            };
            return Err(Error::Refused { place, what });
        }
        Ok(())
    }

    /// Brings files of an older release up, as a daemon does, and ends what a daemon that was killed had of runs.
    pub fn bring_up(&self) -> Result<()> {
        drop(Catalog::open(&self.catalog)?);
        Ok(SqliteState::open(&self.runs)?.end_leases()?)
    }

    /// The file that has a table.
    pub fn of(&self, table: &Table) -> Result<Connection> {
        let file = self.path(table);
        open(file).map_err(failed(file, "open the file"))
    }

    pub fn path(&self, table: &Table) -> &Path {
        if RUNS.contains(table) { &self.runs } else { &self.catalog }
    }

    /// How many rows each table has, and how many runs have not ended.
    pub fn counts(&self) -> Result<(BTreeMap<&'static str, u64>, u64)> {
        let mut counts = BTreeMap::new();
        for table in tables::all() {
            let file = self.path(&table);
            let counted = open(file).and_then(|connection| {
                // An older release has not all of them.
                let is_there = has_table(&connection, table.name)?;
                if is_there {
                    count(&connection, &format!("SELECT count(*) FROM {}", table.name))
                } else {
                    Ok(0)
                }
            });
            counts.insert(table.name, counted.map_err(failed(file, "count what is in the file"))?);
        }
        let live = open(&self.runs)
            .and_then(|connection| count(&connection, "SELECT count(*) FROM runs WHERE ended IS NULL"));
        Ok((counts, live.map_err(failed(&self.runs, "count what is in the file"))?))
    }
}

/// Whether the files of a daemon are there, and have what another one would do again: runs, or objects that it has seen.
pub(super) fn has_work(config: &Config) -> Result<bool> {
    for (file, table) in [(config.runs_file(), "runs"), (config.catalog_file(), "seen")] {
        let looked = || {
            let connection = open(&file)?;
            let some = format!("SELECT EXISTS (SELECT 1 FROM {table})");
            Ok(has_table(&connection, table)? && connection.query_row(&some, [], |row| row.get(0))?)
        };
        if file.exists() && looked().map_err(failed(&file, "read the file"))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let text = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1";
    Ok(connection.query_row(text, [name], |_| Ok(())).optional()?.is_some())
}

fn count(connection: &Connection, text: &str) -> rusqlite::Result<u64> {
    connection.query_row(text, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
}

/// Opens a file that is there. Only with the right to write can it be read whatever a daemon that was killed has left.
fn open(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(Duration::from_secs(30))?;
    Ok(connection)
}

pub(super) fn failed(file: &Path, action: &'static str) -> impl FnOnce(rusqlite::Error) -> Error + use<> {
    let place = file.display().to_string();
    move |source| Error::Catalog { place, action, source: source.into() }
}
