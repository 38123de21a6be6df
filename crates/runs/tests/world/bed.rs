//! Where tests keep their runs: a file of SQLite, or a database of a server of PostgreSQL.

use std::path::PathBuf;
use std::sync::Arc;

use leeward_runs::state::{SqliteState, State};

/// A place for runs. Each [`Bed::open`] is as another daemon's.
pub struct Bed {
    folder: tempfile::TempDir,
    is_postgres: bool,
    name: String,
}

/// Runs each of these tests on SQLite, and on PostgreSQL where it is installed and the feature is on.
#[macro_export]
macro_rules! on_each {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[test] fn $name() { super::$name(&super::world::Bed::sqlite()); })*
        }
        #[cfg(feature = "postgres")]
        mod postgres {
            $(#[test] fn $name() {
                if let Some(bed) = super::world::Bed::postgres() {
                    super::$name(&bed);
                }
            })*
        }
    };
}

impl Bed {
    pub fn sqlite() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), is_postgres: false, name: String::new() }
    }

    #[cfg(feature = "postgres")]
    pub fn postgres() -> Option<Self> {
        super::server::server().map(Self::on)
    }

    #[cfg(feature = "postgres")]
    pub fn on(server: &super::server::Server) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let bed = Self { folder: tempfile::tempdir().unwrap(), is_postgres: true, name };
        server.database(&bed.name, &bed.file());
        bed
    }

    /// The database's file, or the file that says where the database is.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join(if self.is_postgres { "postgres" } else { "sqlite" })
    }

    /// Does something to the tables past the state: what a clock, or another release, would do.
    pub fn tamper(&self, sqlite: &str, _postgres: &str) {
        #[cfg(feature = "postgres")]
        if self.is_postgres {
            assert!(super::server::server().unwrap().ask(&self.name, _postgres));
            return;
        }
        rusqlite::Connection::open(self.file()).unwrap().execute_batch(sqlite).unwrap();
    }

    /// Whether nobody stopped in the middle of a change. The server ends such a change by itself, a file waits.
    pub fn is_writable(&self) -> bool {
        if self.is_postgres {
            return true;
        }
        let file = rusqlite::Connection::open(self.file()).unwrap();
        file.busy_timeout(std::time::Duration::from_millis(500)).unwrap();
        file.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok()
    }

    pub fn try_open(&self) -> leeward_runs::Result<Arc<dyn State>> {
        open(&self.file())
    }

    pub fn open(&self) -> Arc<dyn State> {
        self.try_open().unwrap()
    }
}

/// Opens what [`Bed::file`] names.
pub fn open(file: &std::path::Path) -> leeward_runs::Result<Arc<dyn State>> {
    #[cfg(feature = "postgres")]
    if file.ends_with("postgres") {
        let options = leeward_runs::state::PostgresOptions::from_file(file)?;
        return Ok(Arc::new(leeward_runs::state::PostgresState::open(&options)?));
    }
    Ok(Arc::new(SqliteState::open(file)?))
}
