//! The state of one daemon: out of its files, into an empty database that several daemons share.
//!
//! - All of it is one transaction, under locks that let nobody begin to work on the database meanwhile. Before it is committed,
//!   every row is read back and compared with the files.
//! - Nothing is merged and nothing is overwritten: a database that has anything of a site is refused.
//! - The files stay. Beside them a mark ([`Mark`]) is written before the commit and completed after it. Who is killed before
//!   the mark has changed nothing; who is killed after it has left a mark that no daemon starts with, and the database knows
//!   under the mark's name whether the move was done: the next one looks, and ends it or begins anew.
//! - Runs that have not ended come without leases, as after a start on the files: whichever daemon looks first takes them.

mod files;
mod mark;
mod shared;

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use leeward_runs::state::{PostgresFailure, PostgresWork};
use postgres::Transaction;
use serde::Serialize;

use super::tables;
use crate::{Config, Error, Result};
use files::Files;
use mark::Mark;
use shared::{Held, Shared};

/// What was moved, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// The site.
    pub site: String,
    /// Where its files are.
    pub directory: PathBuf,
    /// The database, without secrets.
    pub database: String,
    /// How many rows of what, by the names of the tables in files; empty where it was moved before.
    pub tables: BTreeMap<&'static str, u64>,
    /// Runs that have not ended.
    pub live: u64,
    /// When it was moved, where that was done before.
    pub moved_before: Option<Timestamp>,
}

impl Moved {
    /// The same for people: how many of what, in the order in which it is moved; nothing of what there is none of.
    #[must_use]
    pub fn lines(&self) -> Vec<(&'static str, u64)> {
        let rows = tables::all().map(|table| (table.rows, *self.tables.get(table.name).unwrap_or(&0)));
        rows.filter(|(_, count)| *count > 0).collect()
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Going {
    /// Whether what was written is compared, and not being written.
    pub compares: bool,
    /// What, for people.
    pub rows: &'static str,
    /// How many of them are done.
    pub done: u64,
    /// How many there are.
    pub of: u64,
}

/// Is told how far it is; says whether to go on.
type Watch<'a> = &'a mut dyn FnMut(&Going) -> bool;

/// Why a move ends early.
enum Halt {
    Server(PostgresFailure),
    Own(Error),
}

impl From<PostgresFailure> for Halt {
    fn from(failure: PostgresFailure) -> Self {
        Self::Server(failure)
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Own(error)
    }
}

/// Moves the state of the daemon whose configuration this is from its files into the database that it names.
///
/// # Errors
/// The configuration names no database, a daemon has the files or is on the database, the database has the state of a site, the
/// files are damaged or of a newer release, or `watch` says to end. Files and database are then as they were, unless the answer
/// to the commit was lost: the error says so, and the next move knows.
pub fn move_state(config: &Config, dry_run: bool, watch: Watch<'_>) -> Result<Moved> {
    let database = config.database.as_ref().ok_or_else(|| no_database(config))?;
    let files = Files::take(config)?;
    let shared = Shared::of(database)?;
    let mut moved = Moved {
        site: config.name.clone(),
        directory: config.state.clone(),
        database: shared.place().to_owned(),
        tables: BTreeMap::new(),
        live: 0,
        moved_before: None,
    };
    if let Some(mark) = Mark::read(&config.state)? {
        match (shared.has(&mark.id)?, mark.is_done) {
            (true, is_done) => {
                if !is_done && !dry_run {
                    mark.complete(&config.state)?;
                }
                moved.moved_before = Some(mark.at);
                return Ok(moved);
            }
            (false, true) => return Err(mark.elsewhere(config, shared.place())),
            // What another database says of it is not known here.
            (false, false) if mark.database != shared.place() => return Err(mark.unfinished(&config.state)),
            // It was killed before its commit.
            (false, false) if !dry_run => Mark::remove(&config.state)?,
            (false, false) => {}
        }
    }
    files.examine()?;
    shared.examine(!dry_run)?;
    // Before any lock is taken: nobody who works on that database is to wait for a mistake.
    shared.held()?.refuse(shared.place())?;
    if !dry_run {
        files.bring_up()?;
    }
    (moved.tables, moved.live) = files.counts()?;
    if !dry_run {
        transfer(config, &files, &shared, &moved, watch)?;
    }
    Ok(moved)
}

fn no_database(config: &Config) -> Error {
    let file = config.file.as_ref().map_or("the configuration".into(), |file| file.display().to_string());
    Error::Config {
        place: file,
        what: "it has no [database]: name there the empty database into which the state is to go".to_owned(),
    }
}

fn transfer(config: &Config, files: &Files, shared: &Shared, moved: &Moved, watch: Watch<'_>) -> Result<()> {
    let mark = Mark::new(&moved.site, &moved.database)?;
    let (mut own, mut is_marked) = (None, false);
    let written = shared.write("move the state", |work| {
        let done = fill(work, config, files, moved, &mark, watch);
        is_marked = done.is_ok();
        done.map_err(|halt| match halt {
            Halt::Server(failure) => failure,
            Halt::Own(error) => {
                own = Some(error);
                PostgresFailure::Other("it was not to go on".into())
            }
        })
    });
    match (written, own) {
        (Ok(()), _) => mark.complete(&config.state),
        (Err(_), Some(error)) => Err(error),
        // What the server did with the commit is known to it alone, and the mark stays until it was asked.
        (Err(error), None) if is_marked => match shared.has(&mark.id) {
            Ok(true) => mark.complete(&config.state),
            Ok(false) => {
                Mark::remove(&config.state)?;
                Err(error)
            }
            Err(_) => Err(mark.unknown(&config.state, error)),
        },
        (Err(error), None) => Err(error),
    }
}

/// All of it, until only the commit is missing.
fn fill(
    work: &mut PostgresWork<'_, Transaction<'_>>,
    config: &Config,
    files: &Files,
    moved: &Moved,
    mark: &Mark,
    watch: Watch<'_>,
) -> Result<(), Halt> {
    shared::be_alone(work)?;
    Held::look(work)?.refuse(&moved.database)?;
    for compares in [false, true] {
        for table in tables::all() {
            let of = *moved.tables.get(table.name).unwrap_or(&0);
            let mut tell = |done| match watch(&Going { compares, rows: table.rows, done, of }) {
                true => Ok(()),
                false => Err(Error::Interrupted),
            };
            match compares {
                false => shared::copy(work, files, &table, &mut tell)?,
                true => shared::compare(work, files, &table, &mut tell)?,
            }
        }
    }
    for table in tables::all() {
        shared::count_on(work, files, &table)?;
    }
    shared::remember(work, mark)?;
    Ok(mark.begin(&config.state)?)
}

/// Whether a daemon may start on the state that the configuration names: not on files whose state was moved into a database, and
/// not on an empty database while the files beside it have the state.
///
/// # Errors
/// It may not, or the files or the database cannot be read.
pub fn check_state(config: &Config) -> Result<()> {
    match (Mark::read(&config.state)?, &config.database) {
        (Some(mark), _) if !mark.is_done => Err(mark.unfinished(&config.state)),
        (Some(mark), None) => Err(mark.gone(&config.state)),
        // A database that does not answer is told of by who works on it.
        (Some(mark), Some(database)) => {
            let shared = Shared::of(database)?;
            match shared.has(&mark.id) {
                Ok(false) => Err(mark.elsewhere(config, shared.place())),
                Ok(true) | Err(_) => Ok(()),
            }
        }
        (None, Some(database)) if files::has_work(config)? => {
            let shared = Shared::of(database)?;
            match shared.is_empty()? {
                true => Err(not_moved(config, shared.place())),
                false => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn not_moved(config: &Config, database: &str) -> Error {
    Error::Refused {
        place: config.state.display().to_string(),
        what: format!(
            "these files have the state of a daemon, and {database} is empty: a daemon would begin anew there, and import again \
             what it finds; take them over with `leeward server move-state`, or put runs.sqlite and catalog.sqlite elsewhere \
             where they are not wanted"
        ),
    }
}

#[cfg(test)]
mod tests;
