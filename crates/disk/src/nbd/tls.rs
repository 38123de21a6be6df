//! TLS, for both sides.
//!
//! A connection under TLS has one state for both directions, and is used by one thread that reads and others that write.
//! The state has a lock that is held only while bytes are encrypted or decrypted, never over a call of the socket: who
//! waits for the other side keeps nobody from sending, and who cannot send keeps nobody from reading. What the protocol
//! itself wants to say while reading (an answer to a new key) goes out with the next thing that is written, as it may.

use std::io::{self, IoSlice, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};

use super::stream::Stream;
use crate::{Error, Result};

/// Bytes taken from the socket, or encrypted, at a time.
const STEP_BYTES: usize = 64 << 10;

/// Who may connect to a server under TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Those with a certificate that `ca-cert.pem` vouches for.
    Certified,
    /// Anyone.
    Anyone,
}

/// Certificate and key of a server.
#[derive(Clone)]
pub struct TlsServer(Arc<ServerConfig>);

impl std::fmt::Debug for TlsServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("TlsServer")
    }
}

/// Chosen here and not by the process, which may hold several providers and then has no default.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::Invalid { path: path.display().to_string(), what: format!("not usable for TLS: {why}") }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(found) if found.is_empty() => Err(unusable(path, "it holds no certificate")),
        found => found.map_err(|error| unusable(path, error)),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unusable(path, error))
}

fn authorities(path: &Path) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path, error))?;
    }
    Ok(Arc::new(roots))
}

impl TlsServer {
    /// Reads `server-cert.pem` (with the certificates between it and the authority behind it) and `server-key.pem` in
    /// `directory`, and `ca-cert.pem` where clients need a certificate: the names that QEMU and libnbd use.
    ///
    /// # Errors
    /// A file is missing or makes no sense.
    pub fn load(directory: &Path, clients: Clients) -> Result<Self> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(directory, error))?;
        let config = match clients {
            Clients::Anyone => config.with_no_client_auth(),
            Clients::Certified => {
                let path = directory.join("ca-cert.pem");
                let verifier = WebPkiClientVerifier::builder_with_provider(authorities(&path)?, provider());
                config.with_client_cert_verifier(verifier.build().map_err(|error| unusable(&path, error))?)
            }
        };
        let path = directory.join("server-cert.pem");
        let mut config = config
            .with_single_cert(certificates(&path)?, key(&directory.join("server-key.pem"))?)
            .map_err(|error| unusable(&path, error))?;
        // Connections are few and long: nothing is gained by resuming one.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self(Arc::new(config)))
    }

    /// Speaks TLS on a connection whose client asked for it.
    pub(super) fn accept(&self, mut stream: impl Read + Write) -> io::Result<Connection> {
        let connection = ServerConnection::new(Arc::clone(&self.0)).map_err(io::Error::other)?;
        shake_hands(connection.into(), &mut stream)
    }
}

/// What a client trusts, and how it shows who it is.
pub(super) struct TlsClient {
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
}

impl TlsClient {
    /// Reads `ca-cert.pem` in `directory`, and `client-cert.pem` and `client-key.pem` where the former is there. The
    /// server must show a certificate for `host`, a name or an address.
    pub(super) fn load(directory: &Path, host: &str) -> Result<Self> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(directory, error))?
            .with_root_certificates(authorities(&directory.join("ca-cert.pem"))?);
        let path = directory.join("client-cert.pem");
        let config = if path.exists() {
            config
                .with_client_auth_cert(certificates(&path)?, key(&directory.join("client-key.pem"))?)
                .map_err(|error| unusable(&path, error))?
        } else {
            config.with_no_client_auth()
        };
        let server = ServerName::try_from(host.to_owned()).map_err(|_| Error::Invalid {
            path: host.to_owned(),
            what: "no certificate can be for such a name; name one with tls-hostname=".to_owned(),
        })?;
        Ok(Self { config: Arc::new(config), server })
    }

    /// Speaks TLS on a connection whose server agreed to it.
    pub(super) fn connect(&self, mut stream: impl Read + Write) -> io::Result<Connection> {
        let connection = ClientConnection::new(Arc::clone(&self.config), self.server.clone());
        shake_hands(connection.map_err(io::Error::other)?.into(), &mut stream)
    }
}

fn shake_hands(mut connection: Connection, stream: &mut (impl Read + Write)) -> io::Result<Connection> {
    connection.set_buffer_limit(None);
    while connection.is_handshaking() {
        connection.complete_io(stream)?;
    }
    Ok(connection)
}

/// A connection in one thread, for what is negotiated under TLS before the directions are split.
pub(super) struct Secured<'a, S> {
    pub(super) state: &'a mut Connection,
    pub(super) stream: &'a mut S,
}

impl<S: Read + Write> Read for Secured<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.state.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            self.state.complete_io(self.stream)?;
        }
    }
}

impl<S: Read + Write> Write for Secured<'_, S> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = self.state.writer().write(data)?;
        while self.state.wants_write() {
            self.state.write_tls(self.stream)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The two directions of a connection after its handshake.
pub(super) fn split(connection: Connection, stream: &Stream) -> io::Result<(TlsReader, TlsWriter)> {
    let state = Arc::new(Mutex::new(connection));
    let reader = TlsReader {
        state: Arc::clone(&state),
        socket: stream.try_clone()?,
        received: vec![0; STEP_BYTES],
        unread: 0..0,
    };
    Ok((reader, TlsWriter { state, socket: stream.try_clone()?, encrypted: Vec::new() }))
}

fn lock(state: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the other side sends.
pub(super) struct TlsReader {
    state: Arc<Mutex<Connection>>,
    socket: Stream,
    /// Bytes from the socket, and those of them that were not decrypted yet.
    received: Vec<u8>,
    unread: std::ops::Range<usize>,
}

impl Read for TlsReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut state = lock(&self.state);
            loop {
                match state.reader().read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
                if self.unread.is_empty() {
                    break;
                }
                let taken = state.read_tls(&mut &self.received[self.unread.clone()])?;
                self.unread.start += taken;
                state
                    .process_new_packets()
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            drop(state);
            match self.socket.read(&mut self.received) {
                // The end of the socket without an end of TLS: someone may have cut something off.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.unread = 0..length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What goes to the other side. There must be one only: what was encrypted first must be sent first.
pub(super) struct TlsWriter {
    state: Arc<Mutex<Connection>>,
    socket: Stream,
    encrypted: Vec<u8>,
}

impl TlsWriter {
    /// Encrypts with `take`, and sends that.
    fn send(&mut self, take: impl FnOnce(&mut Connection) -> io::Result<usize>) -> io::Result<usize> {
        self.encrypted.clear();
        let mut state = lock(&self.state);
        let taken = take(&mut state)?;
        while state.wants_write() {
            state.write_tls(&mut self.encrypted)?;
        }
        drop(state);
        self.socket.write_all(&self.encrypted)?;
        Ok(taken)
    }
}

impl Write for TlsWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let data = &data[..data.len().min(STEP_BYTES)];
        self.send(|state| state.writer().write(data))
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        if parts.iter().map(|part| part.len()).sum::<usize>() <= STEP_BYTES {
            return self.send(|state| state.writer().write_vectored(parts));
        }
        let first = parts.iter().position(|part| !part.is_empty()).unwrap_or_default();
        // A head and the beginning of what follows go together.
        match parts.get(first..).unwrap_or_default() {
            [head, data, ..] if head.len() < STEP_BYTES => {
                let data = &data[..data.len().min(STEP_BYTES - head.len())];
                self.send(|state| state.writer().write_vectored(&[IoSlice::new(head), IoSlice::new(data)]))
            }
            [head, ..] => self.write(head),
            [] => Ok(0),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for TlsWriter {
    fn drop(&mut self) {
        // Where the other side is gone already, there is nobody to take leave of.
        let _ = self.send(|state| {
            state.send_close_notify();
            Ok(0)
        });
    }
}
