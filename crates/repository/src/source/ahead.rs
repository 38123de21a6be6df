//! Reading ahead: finding out who reads in order, and having decoded what they will ask for next.
//!
//! Requests of one reader come out of order and over several connections, so a stream is recognised by what was read,
//! not by who reads: a stretch of disk that is asked for nearly without gaps, whose end moves on. Random reads never make
//! such a stretch, and nothing is decoded for them but what they ask for.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::writer::lock;

/// Streams that are told apart; the one that was quiet for longest gives way to a new one.
const STREAMS_MAX: usize = 16;
/// How far a request may lie from the end of its stream, at least, in bytes.
const SLACK_BYTES: u64 = 1 << 20;
/// As above, in lengths of the request: so many may be under way at once.
const SLACK_REQUESTS: u64 = 16;
/// Requests after which a stretch counts as a stream.
const REQUESTS_MIN: u32 = 4;
/// Bytes after which a stretch counts as a stream.
const STREAM_BYTES_MIN: u64 = 256 << 10;
/// A stream forgets what it was before so many bytes.
const MEMORY_BYTES: u64 = 64 << 20;
/// Bytes of disk that one task covers: what a frame has.
pub(super) const TASK_BYTES: u64 = 2 << 20;

/// A stretch of disk that is being read.
#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    start: u64,
    end: u64,
    bytes: u64,
    requests: u32,
    /// The byte up to which tasks were handed out.
    ahead: u64,
    last_use: u64,
}

impl Stream {
    fn is_near(&self, offset: u64, slack: u64) -> bool {
        offset.abs_diff(self.end) <= slack && offset.saturating_add(slack) >= self.start
    }

    fn add(&mut self, offset: u64, length: u64) {
        self.start = self.start.min(offset);
        self.end = self.end.max(offset + length);
        self.bytes += length;
        self.requests = self.requests.saturating_add(1);
        if self.end - self.start > MEMORY_BYTES {
            self.start = self.end - MEMORY_BYTES / 2;
            self.bytes /= 2;
        }
    }

    /// Whether most of the stretch was asked for.
    fn is_sequential(&self) -> bool {
        let span = self.end - self.start;
        self.requests >= REQUESTS_MIN && span >= STREAM_BYTES_MIN && self.bytes >= span / 4 * 3
    }
}

/// The streams of one disk.
#[derive(Default)]
struct Streams {
    streams: Vec<Stream>,
    clock: u64,
}

impl Streams {
    /// Notes a request. Returns whether it belongs to a stream, and the range that should be decoded now.
    fn note(&mut self, offset: u64, length: u64, window: u64) -> (bool, Option<(u64, u64)>) {
        self.clock += 1;
        let slack = SLACK_BYTES.max(length.saturating_mul(SLACK_REQUESTS));
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.is_near(offset, slack)) else {
            let stream = Stream {
                start: offset,
                end: offset + length,
                bytes: length,
                requests: 1,
                ahead: 0,
                last_use: self.clock,
            };
            if self.streams.len() < STREAMS_MAX {
                self.streams.push(stream);
            } else if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.last_use) {
                *oldest = stream;
            }
            return (false, None);
        };
        stream.last_use = self.clock;
        stream.add(offset, length);
        if !stream.is_sequential() {
            return (false, None);
        }
        let from = stream.ahead.max(stream.end);
        let to = stream.end.saturating_add(window) / TASK_BYTES * TASK_BYTES;
        if to <= from || to - from < TASK_BYTES.min(window) {
            return (true, None);
        }
        stream.ahead = to;
        (true, Some((from, to)))
    }
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<(u64, u64)>,
    is_closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

/// Recognises streams and decodes ahead of them, on threads of its own that end with it.
pub(super) struct Ahead {
    streams: Mutex<Streams>,
    shared: Arc<Shared>,
    /// Started when there is a stream for the first time.
    threads: Mutex<Vec<JoinHandle<()>>>,
    thread_count: usize,
    window: u64,
    load: Arc<dyn Fn(u64, u64) + Send + Sync>,
}

impl Ahead {
    /// Reads at most `window` bytes ahead of each stream by calling `load` with a range of bytes, on `thread_count` threads.
    pub(super) fn new(window: u64, thread_count: usize, load: Arc<dyn Fn(u64, u64) + Send + Sync>) -> Self {
        Self {
            streams: Mutex::default(),
            shared: Arc::new(Shared { queue: Mutex::default(), filled: Condvar::new() }),
            threads: Mutex::default(),
            thread_count,
            window,
            load,
        }
    }

    /// Notes a request before it is served; returns whether it belongs to a stream.
    pub(super) fn note(&self, offset: u64, length: u64) -> bool {
        let (is_stream, range) = lock(&self.streams).note(offset, length, self.window);
        if let Some((from, to)) = range {
            self.hand_out(from, to);
        }
        is_stream
    }

    fn hand_out(&self, from: u64, to: u64) {
        let mut queue = lock(&self.shared.queue);
        let mut start = from;
        while start < to {
            let end = (start / TASK_BYTES + 1).saturating_mul(TASK_BYTES).min(to);
            queue.tasks.push_back((start, end));
            start = end;
        }
        // When the threads cannot keep up, the oldest tasks are the ones that were overtaken.
        let tasks_max = (self.window / TASK_BYTES) as usize * STREAMS_MAX + 1;
        while queue.tasks.len() > tasks_max {
            queue.tasks.pop_front();
        }
        drop(queue);
        self.shared.filled.notify_all();
        let mut threads = lock(&self.threads);
        if threads.is_empty() {
            for _ in 0..self.thread_count {
                let (shared, load) = (Arc::clone(&self.shared), Arc::clone(&self.load));
                let builder = std::thread::Builder::new().name("read-ahead".to_owned());
                // Without the thread reads are slower, but nothing is wrong.
                threads.extend(builder.spawn(move || work(&shared, load.as_ref())));
            }
        }
    }
}

fn work(shared: &Shared, load: &(dyn Fn(u64, u64) + Send + Sync)) {
    loop {
        let mut queue = lock(&shared.queue);
        let (from, to) = loop {
            if queue.is_closed {
                return;
            }
            match queue.tasks.pop_front() {
                Some(task) => break task,
                None => queue = shared.filled.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(queue);
        load(from, to);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        lock(&self.shared.queue).is_closed = true;
        self.shared.filled.notify_all();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // A thread that has panicked has said so; there is nobody to tell here.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 8 << 20;

    #[test]
    fn requests_in_order_are_a_stream_and_each_byte_is_handed_out_once() {
        let mut streams = Streams::default();
        let mut ahead = Vec::new();
        for index in 0..400_u64 {
            // Several under way at once: pairs come in the wrong order.
            ahead.extend(streams.note((index ^ 1) * 65536, 65536, WINDOW).1);
        }
        assert!(!ahead.is_empty());
        assert!(ahead.windows(2).all(|pair| pair[0].1 == pair[1].0), "{ahead:?}");
        let read = 400 * 65536;
        let last = ahead.last().unwrap().1;
        assert!(last > read && last <= read + WINDOW, "{last}");
    }

    #[test]
    fn streams_are_told_apart() {
        let mut streams = Streams::default();
        let mut found = [0; 3];
        for index in 0..64_u64 {
            for (number, base) in [0, 1 << 32, 1 << 40].into_iter().enumerate() {
                if let Some((from, _)) = streams.note(base + index * 65536, 65536, WINDOW).1 {
                    assert!(from >= base && from < base + (1 << 30));
                    found[number] += 1;
                }
            }
        }
        assert!(found.iter().all(|count| *count > 0), "{found:?}");
    }

    #[test]
    fn random_and_scattered_reads_are_none() {
        let mut streams = Streams::default();
        let mut state = 5_u64;
        for index in 0..100_000_u64 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // In a disk of 64 MiB, where many fall near each other by chance; and every eighth block in order.
            let scattered = index * 32768;
            for offset in [state % (1 << 14) * 4096, (1 << 40) + scattered] {
                assert_eq!(streams.note(offset, 4096, WINDOW), (false, None));
            }
        }
    }

    #[test]
    fn threads_end_with_it() {
        let loaded = Arc::new(Mutex::new(0));
        let count = Arc::clone(&loaded);
        let ahead = Ahead::new(WINDOW, 2, Arc::new(move |from, to| *lock(&count) += to - from));
        for index in 0..64 {
            ahead.note(index * 65536, 65536);
        }
        while *lock(&loaded) < WINDOW {
            std::thread::yield_now();
        }
        drop(ahead);
        // The threads held the only other handles.
        assert_eq!(Arc::strong_count(&loaded), 1);
    }
}
