//! One connection after its negotiation: requests come, replies go.

use std::io::{self, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use super::guard::{Failure, Guard};
use super::handshake::{Agreed, BLOCK_MAX, Negotiation, Outcome, Security};
use super::outbox::Outbox;
use super::queue::Queue;
use super::statistics::Counters;
use super::work::{Limits, PIECE_BYTES, Request};
use super::{Export, ServerOptions};
use crate::formats::bytes::{be16, be32, be64};
use crate::nbd::wire::{self, Command};

/// Reads up to this length may be served by the thread that reads requests.
const QUICK_BYTES_MAX: u32 = 1 << 20;

/// What a worker does at a time.
pub(super) enum Job {
    Request(Request),
    /// A part of a write.
    Part {
        write: Arc<Pending>,
        offset: u64,
        data: Vec<u8>,
    },
}

/// A write whose parts are served one by one.
pub(super) struct Pending {
    request: Request,
    parts_left: AtomicUsize,
    failure: Mutex<Option<Failure>>,
}

/// A connection on which requests are served.
pub(super) struct Session<'a> {
    pub(super) device: Guard<'a>,
    pub(super) limits: Limits,
    pub(super) counters: &'a Counters,
    pub(super) outbox: Outbox,
    queue: Queue<Job>,
    /// 0: the thread that reads requests serves them too.
    workers: usize,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        export: &'a Export,
        agreed: Agreed,
        workers: usize,
        counters: &'a Counters,
        outbox: Outbox,
    ) -> Self {
        let device = Guard(export.device.as_ref());
        let limits = Limits {
            size: export.device.source().virtual_size(),
            read_only: export.device.writable().is_none(),
            structured: agreed.structured,
            contexts: agreed.contexts,
        };
        Self { device, limits, counters, outbox, queue: Queue::new(workers), workers }
    }

    /// Serves until the client leaves, breaks the protocol or goes away, and all that it asked for is done.
    pub(super) fn run(&self, input: impl Read) {
        let mut input = BufReader::with_capacity(64 << 10, input);
        std::thread::scope(|scope| {
            // However it ends, there is nobody left to tell.
            let _ = self.receive(&mut input, scope);
            self.queue.close();
        });
    }

    fn receive<'scope, R: Read>(
        &'scope self,
        input: &mut BufReader<R>,
        scope: &'scope Scope<'scope, '_>,
    ) -> io::Result<()> {
        let (mut buffer, mut own_buffer) = (Vec::new(), Vec::new());
        let mut submit = |job| self.submit(job, scope, &mut buffer);
        while !self.outbox.is_broken() {
            let mut header = [0; 28];
            input.read_exact(&mut header)?;
            if be32(&header, 0) != wire::REQUEST_MAGIC {
                self.outbox.fail();
                return Err(io::ErrorKind::InvalidData.into());
            }
            let request = Request {
                flags: be16(&header, 4),
                command: be16(&header, 6),
                cookie: be64(&header, 8),
                offset: be64(&header, 16),
                length: be32(&header, 24),
            };
            match Command::from_number(request.command) {
                Some(Command::Disconnect) => break,
                Some(Command::Write) => self.receive_write(input, request, &mut submit)?,
                // A client that waits for each reply: to wake another thread would take longer than the reply.
                _ if input.buffer().is_empty() && self.is_quick(&request) => {
                    self.perform_guarded(Job::Request(request), &mut own_buffer);
                }
                _ => submit(Job::Request(request))?,
            }
        }
        Ok(())
    }

    /// Takes what is to be written, in parts that are served at once.
    fn receive_write(
        &self,
        input: &mut impl Read,
        request: Request,
        submit: &mut impl FnMut(Job) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Err(failure) = self.limits.check(&request) {
            self.refuse(&request, failure);
            if request.length > BLOCK_MAX {
                // Not worth waiting for its end. What was asked before is still answered.
                return Err(io::ErrorKind::InvalidData.into());
            }
            io::copy(&mut input.take(u64::from(request.length)), &mut io::sink())?;
            return Ok(());
        }
        if request.length == 0 {
            return submit(Job::Request(request));
        }
        let (start, end) = (request.offset, request.offset + u64::from(request.length));
        let parts = (end - 1) / PIECE_BYTES - start / PIECE_BYTES + 1;
        let write = Arc::new(Pending {
            request,
            parts_left: AtomicUsize::new(parts as usize),
            failure: Mutex::default(),
        });
        let mut offset = start;
        while offset < end {
            let length = (PIECE_BYTES - offset % PIECE_BYTES).min(end - offset) as usize;
            self.queue.reserve(length);
            let mut data = Vec::with_capacity(length);
            input.take(length as u64).read_to_end(&mut data)?;
            if data.len() < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            submit(Job::Part { write: Arc::clone(&write), offset, data })?;
            offset += length as u64;
        }
        Ok(())
    }

    fn submit<'scope>(
        &'scope self,
        job: Job,
        scope: &'scope Scope<'scope, '_>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        if self.workers == 0 {
            self.perform(job, buffer);
            return Ok(());
        }
        if !self.queue.push(job) {
            return Ok(());
        }
        let worker = || {
            let mut buffer = Vec::new();
            while let Some(job) = self.queue.take() {
                self.perform_guarded(job, &mut buffer);
            }
        };
        let started = std::thread::Builder::new().name("nbd-worker".to_owned()).spawn_scoped(scope, worker);
        match started {
            Err(error) if !self.queue.worker_failed() => {
                self.outbox.fail();
                Err(error)
            }
            _ => Ok(()),
        }
    }

    fn perform_guarded(&self, job: Job, buffer: &mut Vec<u8>) {
        if catch_unwind(AssertUnwindSafe(|| self.perform(job, buffer))).is_err() {
            // Devices are guarded: this is an error of the server itself, and a request stays unanswered.
            self.outbox.fail();
        }
    }

    /// Whether nothing is being served, and a request is a short read of what is at hand.
    fn is_quick(&self, request: &Request) -> bool {
        request.length <= QUICK_BYTES_MAX
            && self.queue.is_idle()
            && matches!(self.limits.check(request), Ok(Command::Read))
            && self.device.is_at_hand(request.offset, u64::from(request.length))
    }

    fn perform(&self, job: Job, buffer: &mut Vec<u8>) {
        match job {
            // A client that is gone needs no answers.
            Job::Request(_) if self.outbox.is_broken() => {}
            Job::Request(request) => self.serve(&request, buffer),
            Job::Part { write, offset, data } => {
                if let Err(failure) = self.device.write(&data, offset) {
                    write.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
                }
                let length = data.len();
                drop(data);
                self.queue.release(length);
                if write.parts_left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    let failure = write.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
                    self.written(&write.request, failure);
                }
            }
        }
    }
}

/// Serves one connection whose client sends `input`, and returns what the server sends: one request after another, without
/// sockets, threads and clocks, for tests and fuzzers.
#[must_use]
pub fn serve_bytes(exports: &[Export], input: &[u8]) -> Vec<u8> {
    let mut stream = Recorded { input, output: Sink::default() };
    let mut negotiation = Negotiation::new(exports, Security::None);
    let agreed = negotiation.greet(&mut stream).and_then(|()| negotiation.options(&mut stream));
    let Recorded { input, output } = stream;
    if let Ok(Outcome::Serve(agreed)) = agreed {
        let counters = Counters::new();
        let outbox = Outbox::new(Box::new(output.clone()), Box::new(|| {}));
        Session::new(&exports[agreed.export], agreed, 0, &counters, outbox).run(input);
    }
    std::mem::take(&mut *output.0.lock().unwrap_or_else(PoisonError::into_inner))
}

struct Recorded<'a> {
    input: &'a [u8],
    output: Sink,
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Read for Recorded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer)
    }
}

impl Write for Recorded<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.output.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Number of workers from the options.
pub(super) fn workers(options: &ServerOptions) -> usize {
    options.workers.max(1)
}
