//! Why a server closes connections that it has just taken.
//!
//! With TLS 1.3 a server looks at the client's certificate when the client already sends its first request, and what it says of it
//! is lost where that request breaks off: all that is left is a broken pipe. So, once, a connection is opened on which
//! nothing is sent and the server's word is waited for.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::location::Location;
use super::trust;

/// How long the server's word is waited for: a server that is content says nothing.
const WAIT: Duration = Duration::from_secs(2);

/// A connection that is opened to learn why others are closed.
pub(super) struct Handshake {
    config: Arc<ClientConfig>,
    host: String,
    port: u16,
    was_asked: AtomicBool,
}

impl Handshake {
    /// For a server that is spoken to over TLS.
    pub(super) fn new(location: &Location, config: ClientConfig) -> Option<Self> {
        let host = location.host.trim_matches(['[', ']']).to_owned();
        let (config, port) = (Arc::new(config), location.port);
        location.is_secure.then(|| Self { config, host, port, was_asked: AtomicBool::new(false) })
    }

    /// What the server has against this client, and what to do about it; asked once.
    pub(super) async fn objection(&self) -> Option<String> {
        if self.was_asked.swap(true, Ordering::Relaxed) {
            return None;
        }
        let error = tokio::time::timeout(WAIT, self.listen()).await.ok()?.err()?;
        let told = error.to_string();
        trust::hint(&error, &told).map(|hint| format!("{told} — {hint}"))
    }

    async fn listen(&self) -> std::io::Result<()> {
        let name = ServerName::try_from(self.host.clone()).map_err(std::io::Error::other)?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let mut stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await?;
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        poll_fn(|context| Pin::new(&mut stream).poll_read(context, &mut buffer)).await
    }
}
