//! The database that several daemons share.

use std::path::{Path, PathBuf};

use leeward_runs::state::{PostgresOptions, PostgresPool, Roots};
use serde::Deserialize;

use crate::Result;

/// Where that database is. Exactly one of the file and the variable is named.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedDatabase {
    /// A file with the connection string, `postgresql://USER:PASSWORD@HOST/DATABASE`.
    #[serde(default)]
    pub url_file: Option<PathBuf>,
    /// A variable of the environment that has it.
    #[serde(default)]
    pub url_variable: Option<String>,
    /// The authority of the server's certificate, as PEM; those that the system trusts where absent.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

impl SharedDatabase {
    pub(super) fn resolve(&mut self, base: &Path) {
        for path in [&mut self.url_file, &mut self.ca_file].into_iter().flatten() {
            *path = base.join(&*path);
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        match (&self.url_file, &self.url_variable) {
            (Some(_), None) | (None, Some(_)) => Ok(()),
            _ => Err("name the connection string's place: either `url_file` or `url_variable`".to_owned()),
        }
    }

    /// Asks the server whether it is there; returns its place, without secrets.
    ///
    /// # Errors
    /// The connection string makes no sense, or nobody answers.
    pub fn reach(&self) -> Result<String> {
        let pool = PostgresPool::new(&self.options()?)?;
        pool.read("reach the database", |work| work.execute("SELECT 1", &[]).map(drop))?;
        Ok(pool.place().to_owned())
    }

    /// How it is reached.
    ///
    /// # Errors
    /// The connection string cannot be read, is none, or asks for a connection over a network without TLS.
    pub fn options(&self) -> Result<PostgresOptions> {
        let options = match (&self.url_file, &self.url_variable) {
            (Some(file), _) => PostgresOptions::from_file(file)?,
            (None, variable) => PostgresOptions::from_environment(variable.as_deref().unwrap_or_default())?,
        };
        Ok(match &self.ca_file {
            Some(file) => options.with_roots(Roots::File(file.clone())),
            None => options,
        })
    }
}
