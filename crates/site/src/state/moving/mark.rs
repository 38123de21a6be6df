//! The mark beside files whose state is in a database: so that no daemon works on what is old.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Config, Error, Result};

const NAME: &str = "moved.json";

/// The mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The name of the move; the database has it, too, if the move was done.
    pub id: String,
    /// The site.
    pub site: String,
    /// Into which database, without secrets.
    pub database: String,
    /// When.
    pub at: Timestamp,
    /// Whether it is known to be done.
    pub is_done: bool,
}

impl Mark {
    /// That of a move that begins.
    pub fn new(site: &str, database: &str) -> Result<Self> {
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random)
            .map_err(|_| Error::Other("the system gives no random bytes".to_owned()))?;
        Ok(Self {
            id: format!("{:032x}", u128::from_be_bytes(random)),
            site: site.to_owned(),
            database: database.to_owned(),
            at: Timestamp::now(),
            is_done: false,
        })
    }

    /// The one in a directory.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let place = place(directory);
        match fs::read(directory.join(NAME)) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| Error::Refused {
                place,
                what: format!(
                    "it tells whether the state was moved into a database, and makes no sense: {error}; see which database has \
                     it, and put it right"
                ),
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&place, "read whether the state was moved")(error)),
        }
    }

    /// Writes it, as one that is not known to be done.
    pub fn begin(&self, directory: &Path) -> Result<()> {
        self.write(directory)
    }

    /// Writes that it is done.
    pub fn complete(&self, directory: &Path) -> Result<()> {
        Self { is_done: true, ..self.clone() }.write(directory)
    }

    fn write(&self, directory: &Path) -> Result<()> {
        let place = place(directory);
        let failed = |error| Error::io(&place, "write that the state is moved")(error);
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| Error::Other(error.to_string()))?;
        text.push(b'\n');
        let new = directory.join(format!("{NAME}.new"));
        let written = || {
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, directory.join(NAME))?;
            File::open(directory)?.sync_all()
        };
        written().map_err(failed)
    }

    /// Takes the mark of a move away that was not done.
    pub fn remove(directory: &Path) -> Result<()> {
        let removed = fs::remove_file(directory.join(NAME)).and_then(|()| File::open(directory)?.sync_all());
        removed.map_err(Error::io(&place(directory), "take the mark of a move away"))
    }

    /// Why no daemon starts on the files.
    pub fn gone(&self, directory: &Path) -> Error {
        let what = format!(
            "the state of site {} was moved into {} at {}, and the files here are as they were then: what ran since would run \
             again; put [database] back into the configuration, or bring the state of the database into files with `leeward \
             server restore-state`",
            self.site, self.database, self.at
        );
        Error::Refused { place: place(directory), what }
    }

    /// Why no daemon starts at all.
    pub fn unfinished(&self, directory: &Path) -> Error {
        let what = format!(
            "moving the state into {} was begun at {}, and whether it was done is not known here: run `leeward server \
             move-state` with that [database], which looks and ends it; only if that database is lost, and no daemon has worked \
             on it, remove this file",
            self.database, self.at
        );
        Error::Refused { place: place(directory), what }
    }

    /// Why a move that was done is not done again.
    pub fn elsewhere(&self, config: &Config, database: &str) -> Error {
        let what = format!(
            "the state was moved into {} at {}, and {database} does not have it: name that database in [database]; what it has \
             now comes into files with `leeward server restore-state`",
            self.database, self.at
        );
        Error::Refused { place: place(&config.state), what }
    }

    /// What is said where the answer to the commit was lost.
    pub fn unknown(&self, directory: &Path, error: Error) -> Error {
        let what = format!(
            "{} did not answer whether the move was done ({}): run `leeward server move-state` again, which looks and ends it",
            self.database,
            leeward_store::with_causes(&error)
        );
        Error::Refused { place: place(directory), what }
    }
}

fn place(directory: &Path) -> String {
    directory.join(NAME).display().to_string()
}
