//! A repository as a file system (FUSE): every snapshot's disk and its partitions as files, read-only.
//!
//! ```text
//! web/                                    an image; its name's slashes are directories
//!   2026-11-21T10-00-00Z-3f9a0c1d2e4b/    a snapshot: when its backup began, beginning of its digest
//!     disk.raw                            the disk, sparse
//!     partition-1.raw                     its partitions, by the numbers that Linux gives them
//!     manifest.json
//!   latest -> 2026-11-21T10-00-00Z-3f9a0c1d2e4b
//!   root/                                 the image web/root
//! ```
//!
//! What always holds:
//! - nothing can be written, and no byte is served that was not compared with its name;
//! - what is published or forgotten shows within a second or two; a file that is open stays readable as the snapshot
//!   itself does: until a collection ends;
//! - listing reads refs, never a manifest; the partition table of a disk is read when its directory is looked into.
//!
//! The kernel's side is spoken by the crate `fuser`, in Rust throughout. Its own unmounting is not used where files may
//! be open: it then leaves the mount behind ([`Mounted::unmount`]).

mod catalogue;
mod error;
mod file_system;
mod files;
mod node;
mod place;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use leeward_repository::{ReadOptions, Repository};

use catalogue::Catalogue;
pub use error::{Error, ErrorKind, Result};
use file_system::RepositoryFileSystem;
use files::Files;

/// Told of what fails while the mount is served; the program that reads only sees an I/O error.
pub type Report = Arc<dyn Fn(&leeward_repository::Error) + Send + Sync>;

/// How long files that are open may still be served after the mount is gone.
const GRACE: Duration = Duration::from_secs(1);
/// How often the end of the serving threads is looked for.
const PACE: Duration = Duration::from_millis(10);

/// How to mount.
#[derive(Clone)]
pub struct Options {
    /// Whether other users than the one who mounts may look into it.
    pub allow_other: bool,
    /// Threads that serve; each serves one request at a time.
    pub threads: usize,
    /// Memory and threads for reading; one cache serves all snapshots.
    pub read: ReadOptions,
    /// Told of failures.
    pub report: Report,
}

/// A repository that is mounted and served by threads of this process.
pub struct Mounted {
    place: PathBuf,
    session: BackgroundSession,
}

/// Mounts a repository on an empty directory. A mount that a killed process left there is removed first.
///
/// # Errors
/// The directory cannot be used, FUSE is not available, or the repository cannot be opened.
pub fn mount(repository: &Repository, mount_point: &Path, options: &Options) -> Result<Mounted> {
    place::check_system()?;
    let place = place::prepare(mount_point)?;
    let files = Files::new(repository.reader(options.read.clone())?);
    let file_system =
        RepositoryFileSystem::new(Catalogue::new(repository.clone()), files, Arc::clone(&options.report));
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        MountOption::FSName(place::SOURCE.to_owned()),
        MountOption::Subtype(place::SOURCE.to_owned()),
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.max(1));
    config.clone_fd = place::can_open_device();
    let failed = |source| Error::Mount { path: place.clone(), source };
    let session = Session::new(file_system, &place, &config).and_then(Session::spawn).map_err(failed)?;
    Ok(Mounted { place, session })
}

impl Mounted {
    /// Where it is mounted.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Whether somebody has unmounted it and nobody has a file open any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.session.guard.is_finished()
    }

    /// Waits until [`Mounted::has_ended`].
    ///
    /// # Errors
    /// Serving has failed while it was mounted.
    pub fn join(self) -> Result<()> {
        let Self { place, session } = self;
        let served = session.guard.join().map_err(|_| Error::Serve {
            path: place.clone(),
            source: std::io::Error::other("the thread that serves has died"),
        })?;
        // Looked up before the rest of the session goes, which unmounts by itself: an error counts while the mount
        // stands. Whoever took it away ended the last read of the kernel's device, which may call that an error.
        match served {
            Err(_) if !place::is_mounted(&place) => Ok(()),
            other => other.map_err(|source| Error::Serve { path: place, source }),
        }
    }

    /// Takes the mount away at once, also while files are open. Those are served for a moment longer; when they are not
    /// closed by then, reading them fails as soon as the process ends.
    ///
    /// # Errors
    /// The system refuses.
    pub fn unmount(self) -> Result<()> {
        // Not fuser's way: it gives up when a file is open, and leaves the mount behind.
        if !self.has_ended() {
            place::detach(&self.place)?;
        }
        let deadline = Instant::now() + GRACE;
        while !self.has_ended() && Instant::now() < deadline {
            std::thread::sleep(PACE);
        }
        if self.has_ended() {
            return self.join();
        }
        // When it is dropped fuser unmounts by name, and that name may be another mount's by then.
        std::mem::forget(self.session);
        Ok(())
    }
}
