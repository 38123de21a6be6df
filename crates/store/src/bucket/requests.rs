//! What requests a service was sent: the size of its bill.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a request is for; services charge by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestClass {
    /// An object is written.
    Put,
    /// An object or a part of it is read.
    Get,
    /// An object is looked at.
    Head,
    /// One page of a listing.
    List,
    /// An object is deleted.
    Delete,
    /// Anything else: settings of the bucket, tokens.
    Other,
}

/// Counters that threads share; each attempt counts, also one that fails.
#[derive(Debug, Default)]
pub struct Requests {
    put: AtomicU64,
    get: AtomicU64,
    head: AtomicU64,
    list: AtomicU64,
    delete: AtomicU64,
    other: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

/// How many requests were sent, by class, and how many bytes their bodies had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Objects written.
    pub put: u64,
    /// Reads of objects or parts of them.
    pub get: u64,
    /// Looks at objects.
    pub head: u64,
    /// Pages of listings.
    pub list: u64,
    /// Deletions.
    pub delete: u64,
    /// Everything else.
    pub other: u64,
    /// Bytes sent as bodies.
    pub bytes_sent: u64,
    /// Bytes received as bodies.
    pub bytes_received: u64,
}

impl Requests {
    /// Counts a request, and the bytes of its body.
    pub fn count(&self, class: RequestClass, bytes_sent: u64) {
        let counter = match class {
            RequestClass::Put => &self.put,
            RequestClass::Get => &self.get,
            RequestClass::Head => &self.head,
            RequestClass::List => &self.list,
            RequestClass::Delete => &self.delete,
            RequestClass::Other => &self.other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.bytes_sent.fetch_add(bytes_sent, Ordering::Relaxed);
    }

    /// Counts the bytes of an answer.
    pub fn count_received(&self, bytes: u64) {
        self.bytes_received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> RequestCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RequestCounts {
            put: read(&self.put),
            get: read(&self.get),
            head: read(&self.head),
            list: read(&self.list),
            delete: read(&self.delete),
            other: read(&self.other),
            bytes_sent: read(&self.bytes_sent),
            bytes_received: read(&self.bytes_received),
        }
    }
}

impl std::fmt::Display for RequestCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "put {}, get {}, head {}, list {}, delete {}, other {}; {} bytes sent, {} received",
            self.put,
            self.get,
            self.head,
            self.list,
            self.delete,
            self.other,
            self.bytes_sent,
            self.bytes_received
        )
    }
}
