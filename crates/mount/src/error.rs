//! What can go wrong with a mount.

use std::io;
use std::path::PathBuf;

/// An error of mounting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The mount point is no directory that can be used.
    #[error("{}: the mount point cannot be used", path.display())]
    MountPoint {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Files would be hidden.
    #[error("{}: the mount point is not empty", path.display())]
    NotEmpty {
        /// The mount point.
        path: PathBuf,
    },
    /// Something is mounted there already.
    #[error("{}: {what} is mounted here already", path.display())]
    Occupied {
        /// The mount point.
        path: PathBuf,
        /// What it is, as the system calls it.
        what: String,
    },
    /// The kernel offers no FUSE.
    #[error("there is no usable /dev/fuse")]
    NoDevice {
        /// What opening it said.
        source: io::Error,
    },
    /// Only root can mount without help, and the helper is not installed.
    #[error("fusermount3 is not installed, and only root can mount without it")]
    NoHelper,
    /// The system refused.
    #[error("{}: cannot be mounted", path.display())]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What the system or fusermount3 said.
        source: io::Error,
    },
    /// The mount is still there.
    #[error("{}: cannot be unmounted", path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Serving ended with an error.
    #[error("{}: serving the mount has failed", path.display())]
    Serve {
        /// The mount point.
        path: PathBuf,
        /// What the kernel's device said.
        source: io::Error,
    },
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] leeward_repository::Error),
}

/// What callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The mount point is missing.
    NotFound,
    /// Something is in the way.
    Refused,
    /// Something that is needed is not installed or not allowed.
    Unavailable,
    /// The system failed.
    Io,
}

impl Error {
    /// The kind of this error; that of the repository's errors is their own.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::MountPoint { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ErrorKind::NotFound
            }
            Self::NotEmpty { .. } | Self::Occupied { .. } => ErrorKind::Refused,
            Self::NoDevice { .. } | Self::NoHelper => ErrorKind::Unavailable,
            _ => ErrorKind::Io,
        }
    }

    /// What a person may do next.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::MountPoint { .. } => Some("give a directory that exists and is yours"),
            Self::NotEmpty { .. } => Some("its files would be hidden: give an empty directory"),
            Self::Occupied { .. } => {
                Some("unmount it with: fusermount3 -u DIRECTORY, or give another directory")
            }
            Self::NoDevice { .. } => Some(
                "load the module with: modprobe fuse; a container needs --device /dev/fuse and, for mounting, --cap-add SYS_ADMIN",
            ),
            Self::NoHelper => Some("install the package fuse3, or run as root"),
            Self::Mount { .. } => Some(
                "see that the directory is yours, and for --allow-other that /etc/fuse.conf has user_allow_other",
            ),
            Self::Unmount { .. } => Some("unmount it with: fusermount3 -uz DIRECTORY, or umount -l as root"),
            _ => None,
        }
    }
}

/// A result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
