//! A directory of a server reached by SFTP, as a bucket.
//!
//! Objects are files under the directory's path. What is written goes to a file of its own under `.leeward`, is synced, and
//! then gets its name, at one moment; so objects are seen whole or not at all. The folders are synced too.
//!
//! SFTP can create a name that must not be there, but replaces without a comparison, and its users share no locks. So what
//! changes is kept by the scheme for stores without comparison; `docs/decisions/0016-sftp.md` has the alternatives.

mod files;
mod host;
mod input;
mod listing;
mod publish;
mod refusal;
mod session;
mod ssh;
mod wire;

use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use leeward_store::bucket::{Bucket, Comparison, Condition, Head, Read, RequestClass, Requests};
use leeward_store::{Entry, Error, Key, Result};

use self::files::Files;
use self::host::Host;
pub(crate) use self::host::refuse_no_directory;
use self::session::Session;
use self::ssh::{Refused, Ssh};
use crate::adapter::Adapter;
use crate::answer::{At, at};
use crate::environment::Environment;
use crate::location::Location;
use crate::settings::{Known, Settings};

/// A directory of a server.
pub struct Sftp {
    name: String,
    root: String,
    ssh: Ssh,
    /// Whether files are synced: not if the location waives it.
    syncs: bool,
    lag: Duration,
    session: Mutex<Option<Arc<Session>>>,
    requests: Arc<Requests>,
    has_swept: AtomicBool,
}

impl Sftp {
    /// The directory at a location `sftp://[USER@]HOST[:PORT]/PATH`. Nothing is sent yet.
    ///
    /// # Errors
    /// An option makes no sense.
    pub fn new(
        location: &Location,
        environment: &Environment,
        requests: Arc<Requests>,
    ) -> crate::Result<Self> {
        let host = Host::parse(&location.bucket).ok_or_else(|| location.wrong("it names no host"))?;
        let lag = match location.option("lag") {
            Some(text) => text.parse().map_err(|_| location.wrong("lag is a number of seconds"))?,
            None => 0,
        };
        Ok(Self {
            name: location.to_string(),
            root: match location.prefix.strip_prefix("~/") {
                Some(in_home) => in_home.to_owned(),
                None => format!("/{}", location.prefix),
            },
            ssh: Ssh::new(host, environment),
            syncs: location.flag("sync")?.unwrap_or(true),
            lag: Duration::from_secs(lag),
            session: Mutex::new(None),
            requests,
            has_swept: AtomicBool::new(false),
        })
    }

    /// The connection, made anew if it was lost.
    fn session(&self, at: &At<'_>) -> Result<Arc<Session>> {
        let mut held = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = held.as_ref().filter(|session| !session.is_lost()) {
            return Ok(Arc::clone(session));
        }
        *held = None;
        self.requests.count(RequestClass::Other, 0);
        let session = Session::connect(&self.ssh).map_err(|refused| match refused {
            Refused::ForGood(what) => at.denied(what),
            Refused::InPassing(what) => Error::Remote {
                store: at.store.to_owned(),
                action: at.action,
                key: at.key.to_owned(),
                what,
                is_transient: true,
            },
        })?;
        self.refuse_poor(&session)?;
        Ok(Arc::clone(held.insert(Arc::new(session))))
    }

    /// Refuses a server that lacks what a repository needs.
    fn refuse_poor(&self, session: &Session) -> Result<()> {
        let lacks = |extension: &str, what: &str| Error::Unsupported {
            store: self.name.clone(),
            what: format!("its SFTP server {what} (it lacks {extension}); OpenSSH's has it"),
        };
        let needed = [
            ("posix-rename@openssh.com", "does not replace files at one moment", true),
            (
                "fsync@openssh.com",
                "does not say when a file is on its disk; to bear that, add sync=false to the location",
                self.syncs,
            ),
        ];
        let missing = needed.iter().find(|(name, _, needed)| *needed && !session.abilities.has(name));
        missing.map_or(Ok(()), |(name, what, _)| Err(lacks(name, what)))
    }

    fn path(&self, key: &str) -> String {
        format!("{}/{key}", self.root)
    }

    /// Does something with the files of the server.
    fn with<T>(
        &self,
        at: &At<'_>,
        class: RequestClass,
        act: impl FnOnce(&Files<'_>) -> Result<T>,
    ) -> Result<T> {
        let session = self.session(at)?;
        self.requests.count(class, 0);
        act(&Files { session: &session, at })
    }
}

impl Adapter for Sftp {
    fn make(&self) -> Result<()> {
        self.prepare()
    }

    /// Makes the directory; the one above it has to be there.
    fn prepare(&self) -> Result<()> {
        let at = At { store: &self.name, action: "make", key: "the directory" };
        self.with(&at, RequestClass::Other, |files| {
            files.make_folder(&self.root)?;
            match files.look(&self.root) {
                Ok(attributes) if attributes.is_folder() => Ok(()),
                // A link to a directory: what is in it will show.
                Ok(attributes) if !attributes.is_file() => Ok(()),
                Ok(_) => Err(at.denied("there is a file of that name")),
                Err(Error::NotFound { .. }) => Err(at.denied(
                    "the directory above it is not there, or does not let this user write; make it first",
                )),
                Err(error) => Err(error),
            }
        })
    }

    fn settings(&self) -> Settings {
        Settings { versioning: Known::Absent, object_lock: Known::Absent, lifecycle: Known::Absent }
    }

    fn promises(&self) -> Comparison {
        Comparison::CreateOnly
    }

    fn lag(&self) -> Duration {
        self.lag
    }
}

impl Bucket for Sftp {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, key: &Key, range: Option<Range<u64>>, size_max: u64) -> Result<Read> {
        let at = at(&self.name, "read", key);
        let read =
            self.with(&at, RequestClass::Get, |files| files.read(&self.path(key.as_str()), range, size_max))?;
        self.requests.count_received(read.content.len() as u64);
        Ok(read)
    }

    fn head(&self, key: &Key) -> Result<Head> {
        let at = at(&self.name, "look at", key);
        let attributes = self.with(&at, RequestClass::Head, |files| files.look(&self.path(key.as_str())))?;
        match attributes.size {
            Some(size) if attributes.is_file() => Ok(Head { size, tag: None }),
            Some(_) => Err(Error::NotFound { store: self.name.clone(), key: key.to_string() }),
            None => Err(at.nonsense("a file without a size")),
        }
    }

    fn write(&self, key: &Key, parts: &[&[u8]], condition: Condition<'_>) -> Result<()> {
        let at = at(&self.name, "write", key);
        if matches!(condition, Condition::Matches(_)) {
            return Err(Error::Unsupported {
                store: self.name.clone(),
                what: "SFTP does not compare before it replaces a file".to_owned(),
            });
        }
        let session = self.session(&at)?;
        self.requests.count(RequestClass::Put, parts.iter().map(|part| part.len() as u64).sum());
        let files = Files { session: &session, at: &at };
        let temporary = self.temporary(&at)?;
        let written = self.upload(&files, &temporary, parts).and_then(|()| {
            self.sweep(&files, &temporary);
            self.publish(&files, &temporary, key, condition)
        });
        // After a replacement there is nothing left under that name.
        if (written.is_err() || matches!(condition, Condition::Absent)) && !session.is_lost() {
            let _ = files.remove(&temporary);
        }
        written
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let at = at(&self.name, "delete", key);
        self.with(&at, RequestClass::Delete, |files| {
            match files.remove(&self.path(key.as_str())) {
                Err(Error::NotFound { .. }) => return Ok(()),
                other => other?,
            }
            // Folders below the first level come and go with what is in them.
            for folder in self.above(key).skip(1).collect::<Vec<_>>().into_iter().rev() {
                if !files.remove_folder(&self.path(folder))? {
                    break;
                }
            }
            self.sync_above(files, key)
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let at = At { store: &self.name, action: "list", key: prefix };
        let found = self.with(&at, RequestClass::List, |files| files.list(&self.path(prefix)))?;
        let mut entries: Vec<Entry> = found
            .into_iter()
            .filter_map(|(path, attributes)| {
                // What is no key is nobody's object here.
                Some(Entry { key: Key::new(format!("{prefix}{path}"))?, size: attributes.size? })
            })
            .collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }
}
