//! One connection, with many requests under way.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::NbdOptions;
use super::assembly::Assembly;
use super::handshake::{Export, greet, negotiate, start_tls};
use super::stream::{Stream, describe, write_all};
use super::tls;
use super::url::NbdUrl;
use super::wire::{self, Command};
use crate::formats::bytes::{be16, be32, be64};
use crate::{Error, Result};

/// Payload of a chunk that holds no data, at most.
const CHUNK_BYTES_MAX: u32 = 1 << 20;

type Input = Box<dyn Read + Send>;
type Output = Box<dyn Write + Send>;

/// A connection after its negotiation.
pub(super) struct Connection {
    peer: String,
    reply_timeout: Duration,
    writer: Mutex<Output>,
    control: Stream,
    shared: Arc<Shared>,
    reader: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_cookie: u64,
    waiting: HashMap<u64, Waiting>,
    /// Why the connection is over.
    broken: Option<String>,
}

struct Waiting {
    reply: Assembly,
    sender: SyncSender<Assembly>,
}

/// A request under way.
pub(super) struct Ticket {
    receiver: Receiver<Assembly>,
    command: Command,
    offset: u64,
    length: u32,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection: those who wait find their channel closed, and then the reason.
    fn fail(&self, why: String) {
        let mut state = self.state();
        state.broken.get_or_insert(why);
        state.waiting.clear();
    }
}

impl Connection {
    /// Connects and negotiates.
    pub(super) fn open(url: &NbdUrl, options: &NbdOptions, contexts: &[&str]) -> Result<(Self, Export)> {
        let cannot = |action, source| Error::open(&url.text, action, source);
        let mut stream = Stream::connect(&url.address, options.connect_timeout)
            .map_err(|source| cannot("connect to", source))?;
        let limit = Some(options.connect_timeout);
        stream.set_timeouts(limit, limit).map_err(|source| cannot("set up the socket of", source))?;
        greet(&mut stream, url)?;
        let (export, input, output) = match url.tls()? {
            None => {
                let export = negotiate(&mut stream, url, contexts)?;
                let clones = stream.try_clone().and_then(|input| Ok((input, stream.try_clone()?)));
                let (input, output) = clones.map_err(|source| cannot("set up the socket of", source))?;
                (export, Box::new(input) as Input, Box::new(output) as Output)
            }
            Some(certificates) => {
                start_tls(&mut stream, url)?;
                let broken = |error: &io::Error| Error::Protocol {
                    peer: url.text.clone(),
                    what: format!("TLS cannot be started: {}", describe(error)),
                };
                let mut secure = certificates.connect(&mut stream).map_err(|error| broken(&error))?;
                let mut secured = tls::Secured { state: &mut secure, stream: &mut stream };
                let export = negotiate(&mut secured, url, contexts)?;
                let (input, output) = tls::split(secure, &stream).map_err(|error| broken(&error))?;
                (export, Box::new(input) as Input, Box::new(output) as Output)
            }
        };
        let socket = || -> io::Result<Stream> {
            // Replies are waited for by those who asked: a connection without requests may be silent.
            stream.set_timeouts(None, Some(options.reply_timeout))?;
            stream.try_clone()
        };
        let control = socket().map_err(|source| cannot("set up the socket of", source))?;
        let shared = Arc::new(Shared::default());
        let replies = Replies {
            input: BufReader::with_capacity(32 << 10, input),
            control: stream,
            shared: Arc::clone(&shared),
            structured: export.structured,
            contexts: export.contexts.iter().map(|context| context.number).collect(),
        };
        let reader = std::thread::Builder::new()
            .name("nbd-replies".to_owned())
            .spawn(move || replies.run())
            .map_err(|source| cannot("start a thread for", source))?;
        let connection = Self {
            peer: url.text.clone(),
            reply_timeout: options.reply_timeout,
            writer: Mutex::new(output),
            control,
            shared,
            reader: Some(reader),
        };
        Ok((connection, export))
    }

    /// Sends a request; `payload` is what to write, `buffer` a buffer to read into.
    pub(super) fn send(
        &self,
        command: Command,
        offset: u64,
        length: u32,
        payload: &[u8],
        buffer: Vec<u8>,
    ) -> Result<Ticket> {
        let (sender, receiver) = sync_channel(1);
        let cookie = {
            let mut state = self.shared.state();
            if let Some(why) = &state.broken {
                return Err(self.broken(why.clone()));
            }
            let cookie = state.next_cookie;
            state.next_cookie += 1;
            let reply = Assembly::new(command, offset, length, buffer);
            state.waiting.insert(cookie, Waiting { reply, sender });
            cookie
        };
        let sent = {
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            write_all(writer.as_mut(), [&wire::request(command, cookie, offset, length), payload])
        };
        if let Err(error) = sent {
            // Half a request may be on its way: nothing can follow it.
            self.stop(describe(&error));
            return Err(self.broken(describe(&error)));
        }
        Ok(Ticket { receiver, command, offset, length })
    }

    /// Waits for the reply to a request.
    pub(super) fn wait(&self, ticket: Ticket) -> Result<Assembly> {
        let limit = self.reply_timeout * if ticket.command == Command::Flush { 10 } else { 1 };
        let reply = match ticket.receiver.recv_timeout(limit) {
            Ok(reply) => reply,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                let why = format!("no reply within {} s", limit.as_secs_f32());
                self.stop(why.clone());
                return Err(self.broken(why));
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                let why = self.shared.state().broken.clone();
                return Err(self.broken(why.unwrap_or_else(|| "the connection is over".to_owned())));
            }
        };
        match reply.failure {
            None => Ok(reply),
            Some(failure) => Err(Error::Io {
                path: self.peer.clone(),
                action: ticket.command.action(),
                offset: ticket.offset,
                length: u64::from(ticket.length),
                source: io::Error::other(failure),
            }),
        }
    }

    fn broken(&self, what: String) -> Error {
        Error::Protocol { peer: self.peer.clone(), what }
    }

    fn stop(&self, why: String) {
        self.shared.fail(why);
        self.control.shutdown();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut output = std::mem::replace(writer, Box::new(io::sink()));
        let _ = output.write_all(&wire::request(Command::Disconnect, 0, 0, 0));
        // Under TLS this takes leave as well.
        drop(output);
        self.control.shutdown();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// The thread that reads replies.
struct Replies {
    input: BufReader<Input>,
    control: Stream,
    shared: Arc<Shared>,
    structured: bool,
    /// The numbers of the meta contexts that were agreed on.
    contexts: Vec<u32>,
}

impl Replies {
    fn run(mut self) {
        loop {
            if let Err(why) = self.next() {
                self.control.shutdown();
                self.shared.fail(why);
                return;
            }
        }
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|error| describe(&error))?;
        Ok(bytes)
    }

    /// Reads one reply or chunk. The request is taken off the list meanwhile, so that no lock is held over the socket.
    fn next(&mut self) -> Result<(), String> {
        let magic = u32::from_be_bytes(self.read()?);
        let (header, done) = match magic {
            wire::SIMPLE_REPLY_MAGIC => (Header::Simple { error: u32::from_be_bytes(self.read()?) }, true),
            wire::STRUCTURED_REPLY_MAGIC if self.structured => {
                let [flags, kind] = [u16::from_be_bytes(self.read()?), u16::from_be_bytes(self.read()?)];
                (Header::Chunk { kind }, flags & wire::CHUNK_DONE != 0)
            }
            other => return Err(format!("the server sends {other:#010x} where a reply should begin")),
        };
        let cookie = u64::from_be_bytes(self.read()?);
        let waiting = self.shared.state().waiting.remove(&cookie);
        let mut waiting =
            waiting.ok_or_else(|| format!("the server answers request {cookie}, which was not made"))?;
        let received = match header {
            Header::Simple { error } => self.simple(&mut waiting.reply, error),
            Header::Chunk { kind } => self.chunk(&mut waiting.reply, kind),
        };
        let checked = received.and_then(|()| if done { waiting.reply.check_complete() } else { Ok(()) });
        if let Err(why) = checked {
            // Before `waiting` goes: who finds the channel closed must find the reason.
            self.shared.fail(why.clone());
            return Err(why);
        }
        if done {
            // Who asked may have given up.
            let _ = waiting.sender.try_send(waiting.reply);
            return Ok(());
        }
        let mut state = self.shared.state();
        if state.broken.is_none() {
            state.waiting.insert(cookie, waiting);
        }
        Ok(())
    }

    fn simple(&mut self, reply: &mut Assembly, error: u32) -> Result<(), String> {
        let needs_chunks = matches!(reply.command, Command::Read | Command::BlockStatus);
        if error != 0 {
            reply.failure = Some(wire::errno(error).to_owned());
            return Ok(());
        }
        if needs_chunks && self.structured {
            return Err("the server sends a simple reply where a structured one was agreed on".to_owned());
        }
        if reply.command == Command::Read {
            let (offset, length) = reply.whole();
            let place = reply.place(offset, length)?;
            self.input.read_exact(place).map_err(|error| describe(&error))?;
        }
        Ok(())
    }

    fn chunk(&mut self, reply: &mut Assembly, kind: u16) -> Result<(), String> {
        let length = u32::from_be_bytes(self.read()?);
        match (kind, length) {
            (wire::CHUNK_NONE, 0) => Ok(()),
            (wire::CHUNK_OFFSET_DATA, 9..) => {
                let offset = u64::from_be_bytes(self.read()?);
                let place = reply.place(offset, length - 8)?;
                self.input.read_exact(place).map_err(|error| describe(&error))
            }
            (wire::CHUNK_OFFSET_HOLE, 12) => {
                let hole = self.read::<12>()?;
                reply.place(be64(&hole, 0), be32(&hole, 8))?.fill(0);
                Ok(())
            }
            (_, 0..=CHUNK_BYTES_MAX) => {
                let mut payload = vec![0; length as usize];
                self.input.read_exact(&mut payload).map_err(|error| describe(&error))?;
                self.other_chunk(reply, kind, &payload)
            }
            _ => Err(format!("the server announces a chunk of {length} bytes")),
        }
    }

    fn other_chunk(&self, reply: &mut Assembly, kind: u16, payload: &[u8]) -> Result<(), String> {
        if kind & wire::CHUNK_ERROR != 0 && payload.len() >= 6 {
            let said = payload.get(6..6 + usize::from(be16(payload, 4))).unwrap_or_default();
            let said: String =
                String::from_utf8_lossy(said).chars().filter(|c| !c.is_control()).take(200).collect();
            let error = wire::errno(be32(payload, 0));
            reply.failure =
                Some(if said.is_empty() { error.to_owned() } else { format!("{error} ({said})") });
            return Ok(());
        }
        if kind == wire::CHUNK_BLOCK_STATUS && payload.len() >= 4 {
            let context = be32(payload, 0);
            if !self.contexts.contains(&context) {
                return Err("the server reports a context that was not asked for".to_owned());
            }
            return reply.add_extents(context, &payload[4..]);
        }
        Err(format!("the server sends a chunk of unknown kind {kind}, {} bytes long", payload.len()))
    }
}

enum Header {
    Simple { error: u32 },
    Chunk { kind: u16 },
}
