//! What the processes of a round do, and what they may come to.

use std::sync::{Arc, Mutex};

use jiff::SignedDuration;
use leeward_repository::{CollectOptions, Error, ErrorKind, ReadData, Repository, SnapshotId, Unattended};

use crate::common::{backup, backup_group, image};

/// A snapshot that must be there: image, name, content.
pub type Kept = (String, SnapshotId, Arc<Vec<u8>>);

/// What must be in the repository, as far as it is certain.
#[derive(Default)]
pub struct Book {
    /// Acknowledged, and not forgotten.
    pub kept: Vec<Kept>,
    /// Forgotten, and not brought back: must be out of sight. One that was being forgotten or brought back when a process
    /// died, or was told that nobody knows, is in neither list: it may be there or not.
    pub forgotten: Vec<Kept>,
}

/// What a process does.
#[derive(Clone)]
pub enum Role {
    /// Backs content up; an incremental backup has the snapshot and content that it builds on.
    BackUp { name: String, content: Arc<Vec<u8>>, base: Option<(SnapshotId, Arc<Vec<u8>>)> },
    /// Collects, and then again, declaring dead whoever held it up.
    Collect { revokes: bool, window: SignedDuration },
    /// Checks everything.
    Check { is_alone_with_writers: bool },
    /// Forgets a snapshot.
    Forget(Kept),
    /// Brings one back.
    Undelete(Kept),
}

/// What went wrong.
pub struct Failure {
    what: String,
    /// It may pass by itself, and may have been done all the same: nobody knows.
    pub is_passing: bool,
}

impl Failure {
    fn of(role: &str, error: &Error) -> Self {
        let is_passing = match error {
            Error::Store(error) => {
                error.is_transient() || error.kind() == leeward_store::ErrorKind::Uncertain
            }
            Error::Contended { .. } => true,
            _ => false,
        };
        Self { what: format!("{role}: {error}"), is_passing }
    }

    fn wrong(what: String) -> Self {
        Self { what, is_passing: false }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

/// Plays a role; tells what went wrong that may not, if its process was not killed.
pub fn play(
    role: &Role,
    repository: &Repository,
    book: &Mutex<Book>,
    is_dead: &dyn Fn() -> bool,
) -> Option<Failure> {
    let result = match role {
        Role::BackUp { name, content, base } => back_up(repository, book, name, content, base.as_ref()),
        Role::Collect { revokes, window } => collect(repository, *revokes, *window),
        Role::Check { is_alone_with_writers } => check(repository, *is_alone_with_writers),
        Role::Forget(kept) => forget(repository, book, kept),
        Role::Undelete(kept) => undelete(repository, book, kept),
    };
    result.err().filter(|_| !is_dead())
}

fn back_up(
    repository: &Repository,
    book: &Mutex<Book>,
    name: &str,
    content: &Arc<Vec<u8>>,
    base: Option<&(SnapshotId, Arc<Vec<u8>>)>,
) -> Result<(), Failure> {
    let made = match base {
        None => backup(repository, name, content),
        Some((id, old)) => {
            backup_group(repository, &[(name, content.as_slice(), Some((*id, old.as_slice())))])
                .map(|outcomes| outcomes[0].id)
        }
    };
    match made {
        Ok(id) => {
            book.lock().unwrap().kept.push((name.to_owned(), id, Arc::clone(content)));
            Ok(())
        }
        // One that was declared dead while it lived may miss what it counted on before it learns of it.
        Err(error) if matches!(error, Error::Revoked { .. }) || error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::of("backup", &error)),
    }
}

fn collect(repository: &Repository, revokes: bool, window: SignedDuration) -> Result<(), Failure> {
    let mut options = CollectOptions { unused_max: 0.2, window, ..CollectOptions::default() };
    for _ in 0..=u8::from(revokes) {
        match repository.collect(&options, &Unattended) {
            Ok(outcome) => {
                options.revoke = outcome.waits_for.iter().map(|session| session[..32].to_owned()).collect()
            }
            // A session that it was to declare dead has ended; or what it looked at was forgotten and deleted by
            // another collection, and it stops without deleting anything.
            Err(Error::Invalid(what)) if what.contains("there is no session") => return Ok(()),
            Err(error)
                if error.kind() == ErrorKind::NotFound || matches!(error, Error::MissingBlob { .. }) =>
            {
                return Ok(());
            }
            Err(error) => return Err(Failure::of("collect", &error)),
        }
    }
    Ok(())
}

fn check(repository: &Repository, is_alone_with_writers: bool) -> Result<(), Failure> {
    match repository.check(ReadData::All, &Unattended) {
        Ok(outcome) if is_alone_with_writers && !outcome.findings.is_empty() => {
            Err(Failure::wrong(format!("check finds {:?}", outcome.findings)))
        }
        Ok(_) => Ok(()),
        Err(error) if !is_alone_with_writers && error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::of("check", &error)),
    }
}

fn forget(repository: &Repository, book: &Mutex<Book>, kept: &Kept) -> Result<(), Failure> {
    let (name, id, _) = kept;
    book.lock().unwrap().kept.retain(|(_, other, _)| other != id);
    repository.forget(&image(name), &[*id]).map_err(|error| Failure::of("forget", &error))?;
    book.lock().unwrap().forgotten.push(kept.clone());
    Ok(())
}

fn undelete(repository: &Repository, book: &Mutex<Book>, kept: &Kept) -> Result<(), Failure> {
    let (name, id, _) = kept;
    book.lock().unwrap().forgotten.retain(|(_, other, _)| other != id);
    let undeleted = repository.undelete(&image(name), *id);
    let mut book = book.lock().unwrap();
    match undeleted {
        Ok(_) => book.kept.push(kept.clone()),
        // A collection has let it go.
        Err(Error::NoSnapshot { .. }) => book.forgotten.push(kept.clone()),
        Err(error) => return Err(Failure::of("undelete", &error)),
    }
    Ok(())
}
