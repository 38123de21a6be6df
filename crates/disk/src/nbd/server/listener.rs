//! Where a server listens.

use std::fs::Metadata;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::nbd::stream::Stream;
use crate::{Error, Result};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Where to listen.
#[derive(Debug)]
pub enum Listen {
    /// A Unix domain socket that only this user may connect to. A socket file at which nobody listens is replaced.
    Unix(PathBuf),
    /// A TCP port; port 0 takes one that is free.
    Tcp(SocketAddr),
    /// A socket that listens already.
    UnixSocket(UnixListener),
    /// A socket that listens already.
    TcpSocket(TcpListener),
}

/// A socket that listens.
pub(super) struct Listener {
    socket: Socket,
    /// The socket file to be removed at the end.
    file: Option<SocketFile>,
}

enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Listener {
    pub(super) fn bind(listen: Listen) -> Result<Self> {
        let (socket, file) = match listen {
            Listen::Unix(path) => {
                let (socket, file) = bind_unix(&path)?;
                (Socket::Unix(socket), Some(file))
            }
            Listen::Tcp(address) => {
                let socket = TcpListener::bind(address)
                    .map_err(|source| Error::open(address.to_string(), "listen at", source))?;
                (Socket::Tcp(socket), None)
            }
            Listen::UnixSocket(socket) => (Socket::Unix(socket), None),
            Listen::TcpSocket(socket) => (Socket::Tcp(socket), None),
        };
        match &socket {
            Socket::Unix(socket) => socket.set_nonblocking(true),
            Socket::Tcp(socket) => socket.set_nonblocking(true),
        }
        .map_err(|source| Error::open("socket", "set up", source))?;
        Ok(Self { socket, file })
    }

    /// The next connection, if one waits.
    pub(super) fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Unix(socket) => socket.accept().map(|(stream, _)| Stream::Unix(stream)),
            Socket::Tcp(socket) => {
                let (stream, _) = socket.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }

    pub(super) fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Unix(_) => None,
            Socket::Tcp(socket) => socket.local_addr().ok(),
        }
    }

    pub(super) fn unix_path(&self) -> Option<PathBuf> {
        match &self.socket {
            Socket::Unix(socket) => socket.local_addr().ok()?.as_pathname().map(Path::to_owned),
            Socket::Tcp(_) => None,
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(socket) => socket.as_fd(),
            Socket::Tcp(socket) => socket.as_fd(),
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Binds a socket at `path`. The directory is locked meanwhile, so that of two servers that start at once, and find the
/// socket of a dead one, the second finds the socket of the first.
fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile)> {
    let cannot = |source: io::Error| Error::open(path, "listen at", source);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let locked = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|errno| Error::open(directory, "open", errno.into()))?;
    // Where directories cannot be locked, the check below has to do.
    let _ = rustix::fs::flock(&locked, FlockOperation::LockExclusive);
    clear(path)?;
    let bound = || -> io::Result<(UnixListener, SocketFile)> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        let file =
            SocketFile { path: path.to_owned(), identity: identity(&std::fs::symlink_metadata(path)?) };
        // Nobody can connect before it listens, so nobody slips in before the permissions are right.
        rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok((UnixListener::from(socket), file))
    };
    bound().map_err(cannot)
}

/// Removes a socket file at which nobody listens.
fn clear(path: &Path) -> Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::open(path, "examine", source)),
    };
    let refused = |what: &str| Error::Invalid { path: path.display().to_string(), what: what.to_owned() };
    if !metadata.file_type().is_socket() {
        return Err(refused("refused: there is a file that is not a socket; choose another path"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| Error::open(path, "replace", source))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(refused("refused: another server listens there; stop it or choose another path")),
        Err(source) => Err(Error::open(path, "find out who listens at", source)),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Before the socket is closed: nobody finds a socket file at which nobody listens.
        self.file = None;
    }
}
