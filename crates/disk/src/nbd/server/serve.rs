//! Accepting connections, and stopping.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::handshake::{Agreed, Negotiation, Outcome, Security};
use super::listener::Listener;
use super::outbox::Outbox;
use super::session::{Session, workers};
use super::statistics::Counters;
use super::{Export, Listen, ServerOptions, Statistics};
use crate::nbd::stream::Stream;
use crate::nbd::tls;
use crate::{Error, Result};

/// How often the server looks whether it should stop.
const STOP_CHECK: Duration = Duration::from_millis(50);
/// How long threads may take to end after their connections were cut.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that is bound to its address.
pub struct Server {
    listener: Listener,
    shared: Arc<Shared>,
    running: Mutex<HashMap<u64, Running>>,
}

struct Shared {
    exports: Vec<Export>,
    options: ServerOptions,
    counters: Counters,
}

/// A connection and its thread.
struct Running {
    control: Stream,
    thread: JoinHandle<()>,
}

impl Server {
    /// Listens; connections are served by [`Server::serve`] or [`Server::start`].
    ///
    /// # Errors
    /// The address is taken or not usable, there is no export, or two have the same name.
    pub fn bind(listen: Listen, exports: Vec<Export>, options: ServerOptions) -> Result<Self> {
        let invalid = |what: String| Error::Invalid { path: "NBD server".to_owned(), what };
        if exports.is_empty() {
            return Err(invalid("there is nothing to export".to_owned()));
        }
        for (index, export) in exports.iter().enumerate() {
            if exports[..index].iter().any(|other| other.name == export.name) {
                return Err(invalid(format!("two exports are called {:?}", export.name)));
            }
            if export.name.len() > 4096 || export.description.len() > 4096 {
                return Err(invalid("names and descriptions have 4096 bytes at most".to_owned()));
            }
        }
        let shared = Shared { exports, options, counters: Counters::new() };
        Ok(Self { listener: Listener::bind(listen)?, shared: Arc::new(shared), running: Mutex::default() })
    }

    /// The TCP address, with the port that was taken.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.listener.tcp_address()
    }

    /// The URL of an export, for clients on this machine. Under TLS they have to add `tls-certificates=DIRECTORY`.
    #[must_use]
    pub fn url(&self, export: &str) -> String {
        let export = encode(export.as_bytes());
        let scheme = if self.shared.options.tls.is_some() { "nbds" } else { "nbd" };
        match (self.listener.tcp_address(), self.listener.unix_path()) {
            (Some(address), _) => format!("{scheme}://{address}/{export}"),
            (None, path) => {
                let path = path.unwrap_or_default();
                let path = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
                format!("{scheme}+unix:///{export}?socket={}", encode(path))
            }
        }
    }

    /// What the server has done so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.shared.counters.snapshot()
    }

    /// Serves connections until `should_stop` says so, which is asked several times a second. Then no more requests are
    /// taken, and those under way may finish for as long as the options say.
    ///
    /// # Errors
    /// The listening socket fails.
    pub fn serve(&self, should_stop: &dyn Fn() -> bool) -> Result<()> {
        let served = self.accept_until(should_stop);
        self.finish();
        served.map_err(|source| Error::open("NBD server", "accept connections of", source))
    }

    /// Serves connections in a thread of its own.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(self) -> Result<Handle> {
        let server = Arc::new(self);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
            std::thread::Builder::new()
                .name("nbd-server".to_owned())
                .spawn(move || server.serve(&|| stop.load(Ordering::Relaxed)))
                .map_err(|source| Error::open("NBD server", "start a thread for", source))?
        };
        Ok(Handle { server, stop, thread: Some(thread) })
    }

    fn accept_until(&self, should_stop: &dyn Fn() -> bool) -> io::Result<()> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: STOP_CHECK.as_nanos() as i64 };
        while !should_stop() {
            let mut waiting = [PollFd::new(&self.listener, PollFlags::IN)];
            match rustix::event::poll(&mut waiting, Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            match self.listener.accept() {
                Ok(stream) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The client may be gone, or descriptors may be short for a while.
                Err(_) => std::thread::sleep(STOP_CHECK),
            }
        }
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a connection a thread, if there may be one more; else it is closed at once. The counters are right before
    /// the client can notice: who sees its connection closed finds it counted.
    fn admit(&self, stream: Stream) {
        let counters = &self.shared.counters;
        let number = counters.connections_total.fetch_add(1, Ordering::Relaxed);
        let refuse = |stream: Option<Stream>| {
            counters.connections_refused.fetch_add(1, Ordering::Relaxed);
            drop(stream);
        };
        let mut running = self.running();
        running.retain(|_, connection| !connection.thread.is_finished());
        // Only this thread adds to the number, so that it cannot be passed.
        if counters.connections.load(Ordering::Relaxed) >= self.shared.options.connections_max as u64 {
            return refuse(Some(stream));
        }
        let Ok(control) = stream.try_clone() else { return refuse(Some(stream)) };
        let shared = Arc::clone(&self.shared);
        counters.connections.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::Builder::new().name("nbd-requests".to_owned());
        match thread.spawn(move || shared.converse(stream)) {
            Ok(thread) => drop(running.insert(number, Running { control, thread })),
            Err(_) => {
                counters.connections.fetch_sub(1, Ordering::Relaxed);
                refuse(None);
            }
        }
    }

    /// Ends all connections: first by not listening to them any more, then by cutting them.
    fn finish(&self) {
        let mut running = self.running();
        let wait = |running: &mut HashMap<u64, Running>, limit: Duration| {
            let deadline = Instant::now() + limit;
            while !running.is_empty() && Instant::now() < deadline {
                running.retain(|_, connection| !connection.thread.is_finished());
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        running.values().for_each(|connection| connection.control.shutdown_read());
        wait(&mut running, self.shared.options.stop_timeout);
        running.values().for_each(|connection| connection.control.shutdown());
        // A thread that a device does not let go of is left to itself.
        wait(&mut running, CUT_TIMEOUT);
        running.clear();
    }
}

impl Shared {
    /// One connection, from its greeting to its end.
    fn converse(&self, stream: Stream) {
        // Who is on the other side, and gone, cannot be told why; a panic ends this connection and no other.
        let _ = catch_unwind(AssertUnwindSafe(|| self.negotiate_and_serve(&stream)));
        stream.shutdown();
        self.counters.connections.fetch_sub(1, Ordering::Relaxed);
    }

    fn negotiate_and_serve(&self, stream: &Stream) -> io::Result<()> {
        let mut timed = Timed { stream, deadline: Instant::now() + self.options.handshake_timeout };
        let certificate = self.options.tls.as_ref();
        let security = if certificate.is_some() { Security::Required } else { Security::None };
        let mut negotiation = Negotiation::new(&self.exports, security);
        negotiation.greet(&mut timed)?;
        match (negotiation.options(&mut timed)?, certificate) {
            (Outcome::Serve(agreed), _) => {
                self.serve(agreed, stream, stream.try_clone()?, Box::new(stream.try_clone()?))
            }
            (Outcome::StartTls, Some(certificate)) => {
                let mut connection = certificate.accept(&mut timed)?;
                negotiation.secured();
                let mut secured = tls::Secured { state: &mut connection, stream: &mut timed };
                let outcome = negotiation.options(&mut secured)?;
                let (input, output) = tls::split(connection, stream)?;
                match outcome {
                    Outcome::Serve(agreed) => self.serve(agreed, stream, input, Box::new(output)),
                    Outcome::Over | Outcome::StartTls => Ok(()),
                }
            }
            (Outcome::Over | Outcome::StartTls, _) => Ok(()),
        }
    }

    fn serve(
        &self,
        agreed: Agreed,
        control: &Stream,
        input: impl Read,
        output: Box<dyn Write + Send>,
    ) -> io::Result<()> {
        control.set_timeouts(None, Some(self.options.reply_timeout))?;
        let control = control.try_clone()?;
        let outbox = Outbox::new(output, Box::new(move || control.shutdown()));
        let export = &self.exports[agreed.export];
        Session::new(export, agreed, workers(&self.options), &self.counters, outbox).run(input);
        Ok(())
    }
}

/// A socket with one limit for all that is read from it and written to it.
struct Timed<'a> {
    stream: &'a Stream,
    deadline: Instant,
}

impl Timed<'_> {
    fn arm(&self) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_timeouts(Some(left), Some(left))
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.arm()?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.arm()?;
        let mut stream = self.stream;
        stream.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// A server that runs; it stops when this is dropped.
pub struct Handle {
    server: Arc<Server>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Handle {
    /// The server, for its URL and statistics.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Whether it still serves: it ends by itself only if its socket fails.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops, as [`Server::serve`] does, and returns what was done.
    ///
    /// # Errors
    /// The listening socket had failed.
    pub fn stop(mut self) -> Result<Statistics> {
        self.end()?;
        Ok(self.server.statistics())
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            _ => Ok(()),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
