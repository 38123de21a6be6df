//! One at a time for each frame: two threads that want the same frame do not both decode it.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::id::PackId;
use crate::writer::lock;

/// A frame: its pack and its offset there.
pub(super) type FrameKey = (PackId, u32);

#[derive(Default)]
struct Flight {
    has_landed: Mutex<bool>,
    landing: Condvar,
}

/// The frames that are being decoded.
#[derive(Default)]
pub(super) struct Flights {
    under_way: Mutex<HashMap<FrameKey, Arc<Flight>>>,
}

/// The right to decode a frame. Whoever waits for it goes on when it is dropped, whatever came of it.
pub(super) struct Lead<'a> {
    flights: &'a Flights,
    key: FrameKey,
    flight: Arc<Flight>,
}

impl Flights {
    /// The right to decode the frame; `None` after having waited for somebody who had it.
    pub(super) fn lead_or_wait(&self, key: FrameKey) -> Option<Lead<'_>> {
        let mut under_way = lock(&self.under_way);
        let Some(flight) = under_way.get(&key).map(Arc::clone) else {
            let flight = Arc::new(Flight::default());
            under_way.insert(key, Arc::clone(&flight));
            return Some(Lead { flights: self, key, flight });
        };
        drop(under_way);
        let mut has_landed = lock(&flight.has_landed);
        while !*has_landed {
            has_landed = flight.landing.wait(has_landed).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        lock(&self.flights.under_way).remove(&self.key);
        *lock(&self.flight.has_landed) = true;
        self.flight.landing.notify_all();
    }
}
