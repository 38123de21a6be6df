//! The state that daemons share, as the files that a single daemon has.

use std::path::Path;

use leeward_runs::state::{PostgresFailure, PostgresPool, PostgresWork, SqliteState};
use postgres::GenericClient;
use rusqlite::{Connection, params_from_iter};

use super::tables::{CATALOG, RUNS, value};
use crate::catalog::Catalog;
use crate::config::SharedDatabase;
use crate::{Error, Result};

/// Rows that are in memory at once.
const ROWS_AT_ONCE: u32 = 500;

/// Copies one moment of the database into new files.
pub(super) fn copy(database: &SharedDatabase, catalog: &Path, runs: &Path) -> Result<()> {
    drop(Catalog::open(catalog)?);
    drop(SqliteState::open(runs)?);
    let pool = PostgresPool::new(&database.options()?)?;
    let places = [(catalog, CATALOG.as_slice()), (runs, RUNS.as_slice())];
    let copied = pool.write("copy the state", |work| {
        // The server waits while the files are flushed, however large they are.
        work.batch(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
             SET LOCAL idle_in_transaction_session_timeout = 0",
        )?;
        for (path, tables) in places {
            let fill = || {
                let connection = Connection::open(path)?;
                // Who fails removes the file.
                connection.execute_batch("PRAGMA synchronous = OFF; BEGIN")?;
                Ok(connection)
            };
            let connection = fill().map_err(in_file)?;
            for table in tables {
                fill_table(work, &connection, table.name)?;
            }
            // One file each: a log beside it would not be copied with it.
            connection.execute_batch("COMMIT; PRAGMA journal_mode = DELETE").map_err(in_file)?;
        }
        Ok(())
    });
    copied.map_err(Error::from)
}

fn in_file(error: rusqlite::Error) -> PostgresFailure {
    PostgresFailure::Other(error.into())
}

fn fill_table<C: GenericClient>(
    work: &mut PostgresWork<'_, C>,
    connection: &Connection,
    table: &str,
) -> Result<(), PostgresFailure> {
    work.batch(&format!("DECLARE copied NO SCROLL CURSOR FOR SELECT * FROM leeward_{table}"))?;
    loop {
        let rows = work.rows(&format!("FETCH {ROWS_AT_ONCE} FROM copied -- {table}"), &[])?;
        let Some(first) = rows.first() else { break };
        let names: Vec<&str> = first.columns().iter().map(postgres::Column::name).collect();
        let text = format!(
            "INSERT INTO {table} ({}) VALUES ({})",
            names.join(", "),
            vec!["?"; names.len()].join(", ")
        );
        let mut statement = connection.prepare_cached(&text).map_err(in_file)?;
        for row in &rows {
            let values = (0..names.len()).map(|index| value(row, index)).collect::<Result<Vec<_>, _>>()?;
            statement.execute(params_from_iter(values)).map_err(in_file)?;
        }
    }
    work.batch("CLOSE copied")
}
