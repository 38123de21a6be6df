//! Replies on their way to a client.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::nbd::stream::write_all;

/// Replies up to this length are gathered while another one is being sent, so that one call sends many.
const SMALL_BYTES_MAX: usize = 16 << 10;
/// Bytes gathered at most; beyond, who has a reply waits for its turn.
const PENDING_BYTES_MAX: usize = 512 << 10;

/// The sending side of a connection, for many threads.
pub(super) struct Outbox {
    output: Mutex<Box<dyn Write + Send>>,
    pending: Mutex<Vec<u8>>,
    broken: AtomicBool,
    /// Ends the connection, for the thread that reads from it.
    hang_up: Box<dyn Fn() + Send + Sync>,
}

impl Outbox {
    pub(super) fn new(output: Box<dyn Write + Send>, hang_up: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            output: Mutex::new(output),
            pending: Mutex::default(),
            broken: AtomicBool::new(false),
            hang_up,
        }
    }

    /// Whether nothing can be sent any more.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Ends the connection: half a reply may have been sent, or the client does not keep to the protocol.
    pub(super) fn fail(&self) {
        self.broken.store(true, Ordering::Relaxed);
        (self.hang_up)();
    }

    /// Sends `head` and `data` behind all that was sent before. An error ends the connection and need not be reported.
    pub(super) fn send(&self, head: &[u8], data: &[u8]) {
        if self.is_broken() {
            return;
        }
        if head.len() + data.len() <= SMALL_BYTES_MAX && self.gather(head, data) {
            return self.flush(self.try_output());
        }
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let gathered = std::mem::take(&mut *self.pending());
        let sent = write_all(output.as_mut(), [&gathered, head, data]);
        self.settle(sent);
        self.flush(Some(output));
    }

    /// Holds the line for a reply that is sent in many steps: what others send comes before or after it.
    pub(super) fn stream(&self, steps: impl FnOnce(&mut dyn FnMut(&[u8])) -> Result<(), ()>) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let gathered = std::mem::take(&mut *self.pending());
        let mut sent = output.write_all(&gathered);
        let complete = steps(&mut |bytes| {
            if sent.is_ok() {
                sent = output.write_all(bytes);
            }
        });
        self.settle(sent);
        if complete.is_err() {
            self.fail();
        }
        self.flush(Some(output));
    }

    fn pending(&self) -> MutexGuard<'_, Vec<u8>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gather(&self, head: &[u8], data: &[u8]) -> bool {
        let mut pending = self.pending();
        let fits = pending.len() + head.len() + data.len() <= PENDING_BYTES_MAX;
        if fits {
            pending.extend_from_slice(head);
            pending.extend_from_slice(data);
        }
        fits
    }

    fn try_output(&self) -> Option<MutexGuard<'_, Box<dyn Write + Send>>> {
        match self.output.try_lock() {
            Ok(output) => Some(output),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Sends what has been gathered. Who cannot get hold of the output may leave: who holds it looks again after letting
    /// go of it, so nothing stays behind.
    fn flush<'a>(&'a self, mut output: Option<MutexGuard<'a, Box<dyn Write + Send>>>) {
        let mut spare = Vec::new();
        while let Some(mut held) = output.take() {
            loop {
                spare.clear();
                std::mem::swap(&mut *self.pending(), &mut spare);
                if spare.is_empty() {
                    break;
                }
                if !self.is_broken() {
                    let sent = held.write_all(&spare);
                    self.settle(sent);
                }
            }
            drop(held);
            if !self.pending().is_empty() {
                output = self.try_output();
            }
        }
    }

    fn settle(&self, sent: io::Result<()>) {
        if sent.is_err() {
            self.fail();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            std::thread::yield_now();
            let part = data.len().min(1000);
            self.0.lock().unwrap().extend(&data[..part]);
            Ok(part)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn replies_of_many_threads_arrive_whole_and_once() {
        let sink = Sink::default();
        let outbox = Outbox::new(Box::new(sink.clone()), Box::new(|| {}));
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let outbox = &outbox;
                scope.spawn(move || {
                    for count in 0..500_u32 {
                        let length = if count % 50 == 0 { 20_000 } else { count % 97 };
                        let head = [&[thread][..], &count.to_be_bytes(), &length.to_be_bytes()].concat();
                        outbox.send(&head, &vec![thread; length as usize]);
                    }
                });
            }
        });
        let sent = sink.0.lock().unwrap();
        let mut rest = sent.as_slice();
        let mut next = [0; 4];
        while let Some((head, behind)) = rest.split_first_chunk::<9>() {
            let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
            assert_eq!(number(1), next[usize::from(head[0])], "in the order of each thread");
            next[usize::from(head[0])] += 1;
            let (data, behind) = behind.split_at(number(5) as usize);
            assert!(data.iter().all(|byte| *byte == head[0]));
            rest = behind;
        }
        assert_eq!(next, [500; 4]);
    }
}
