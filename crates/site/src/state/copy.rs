//! Copies of what a daemon works on while it goes on working.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;
use tar::{Builder, Header};

use super::{ABOUT, About, CATALOG, CONFIG, FORMAT, RUNS, TOKENS, shared};
use crate::{Config, Error, Result};

/// The directory in which a copy is made; what a killed daemon left there goes with the next copy.
const DIRECTORY: &str = "copying";
const ARCHIVE: &str = "state.tar";

/// A copy of the state, which goes away when it is dropped.
pub(super) struct Copy {
    directory: PathBuf,
    pub archive: PathBuf,
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What stays goes with the next copy.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Copies the state of a running daemon into an archive.
pub(super) fn copy(config: &Config) -> Result<Copy> {
    let directory = config.state.join(DIRECTORY);
    let place = directory.display().to_string();
    let failed = |action| Error::io(&place, action);
    if directory.exists() {
        fs::remove_dir_all(&directory).map_err(failed("remove the last copy"))?;
    }
    fs::DirBuilder::new().mode(0o700).create(&directory).map_err(failed("make a directory for the copy"))?;
    let copy = Copy { archive: directory.join(ARCHIVE), directory };
    let about = About {
        format: FORMAT,
        site: config.name.clone(),
        tool: leeward_repository::tool(),
        copied: Timestamp::now(),
        config: config.file.as_ref().map(|file| file.display().to_string()),
        state: config.state.display().to_string(),
    };
    let databases = [(CATALOG, config.catalog_file()), (RUNS, config.runs_file())];
    match &config.database {
        None => {
            for (name, file) in &databases {
                copy_database(file, &copy.directory.join(name))?;
            }
        }
        Some(database) => {
            let [catalog, runs] = [CATALOG, RUNS].map(|name| copy.directory.join(name));
            shared::copy(database, &catalog, &runs)?;
        }
    }
    let about = serde_json::to_vec_pretty(&about).map_err(|error| Error::Other(error.to_string()))?;
    write(&copy, config, &about, &databases.map(|(name, _)| name))
        .map_err(Error::io(&place, "write the archive of the state"))?;
    Ok(copy)
}

/// One moment of a database that others go on writing to.
fn copy_database(from: &Path, to: &Path) -> Result<()> {
    let place = from.display().to_string();
    let copied = Connection::open(from).and_then(|connection| {
        connection.busy_timeout(Duration::from_secs(30))?;
        connection.execute("VACUUM INTO ?1", [to.display().to_string()]).map(|_| ())
    });
    copied.map_err(|source| Error::Catalog { place, action: "copy the database", source: source.into() })
}

fn write(copy: &Copy, config: &Config, about: &[u8], databases: &[&str]) -> std::io::Result<()> {
    let mut archive = Builder::new(File::create_new(&copy.archive)?);
    put(&mut archive, ABOUT, about)?;
    if let Some(file) = &config.file {
        put(&mut archive, CONFIG, &fs::read(file)?)?;
    }
    match fs::read(config.tokens_file()) {
        Ok(tokens) => put(&mut archive, TOKENS, &tokens)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for name in databases {
        let mut file = File::open(copy.directory.join(name))?;
        let mut header = header(file.metadata()?.len());
        archive.append_data(&mut header, name, &mut file)?;
    }
    archive.into_inner()?.flush()
}

fn put(archive: &mut Builder<File>, name: &str, content: &[u8]) -> std::io::Result<()> {
    archive.append_data(&mut header(content.len() as u64), name, content)
}

/// Nothing in it changes from copy to copy but the size: what is the same is stored once.
fn header(bytes: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_mtime(0);
    header
}
