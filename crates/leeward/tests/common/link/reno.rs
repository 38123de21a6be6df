//! One direction of a TCP connection over a way that loses packets: a sender after Reno, in rounds.
//!
//! In each round trip as many packets go out as the window has. A round that was full and lost nothing doubles the window up
//! to the threshold, and adds one packet beyond it; one that lost a packet halves it. A lost packet is sent again in the
//! next round and arrives a round trip later; what follows waits for it. After a pause the window begins anew. The first
//! window has ten packets. Time outs, and what they do to small windows, are left out: that favours all alike.

use std::time::Duration;

use leeward_store::simulation::Random;

use super::Way;

/// Payload of a packet, in bytes.
pub const MSS: usize = 1460;
/// Packets that are sent before the first answer.
const WINDOW_FIRST: f64 = 10.0;
/// A pause after which the window begins anew.
const IDLE: Duration = Duration::from_millis(300);

/// The sender. Times count from the beginning of the connection.
pub struct Reno {
    way: Way,
    random: Random,
    /// In packets.
    window: f64,
    threshold: f64,
    round_began: Duration,
    last_sent: Duration,
    /// Bytes that went out in this round.
    used: usize,
    /// Packets of this round that were lost.
    lost: usize,
    /// Nothing arrives before.
    not_before: Duration,
}

impl Reno {
    /// A sender whose first byte has to wait so long. Its losses follow from the way's seed and `number`.
    pub fn new(way: Way, number: u64, not_before: Duration) -> Self {
        let random = Random::new(way.seed.wrapping_mul(1_000_003).wrapping_add(number));
        Self {
            way,
            random,
            window: WINDOW_FIRST,
            threshold: f64::MAX,
            round_began: Duration::ZERO,
            last_sent: Duration::ZERO,
            used: 0,
            lost: 0,
            not_before,
        }
    }

    /// How many bytes may go out now, or when to ask again.
    pub fn room(&mut self, now: Duration) -> Result<usize, Duration> {
        if self.way.round_trip.is_zero() {
            return Ok(usize::MAX);
        }
        if now >= self.round_began + self.way.round_trip {
            self.end_round(now);
        }
        match self.budget().checked_sub(self.used) {
            None | Some(0) => Err(self.round_began + self.way.round_trip),
            Some(room) => Ok(room),
        }
    }

    /// Sends so many bytes; when they arrive.
    pub fn send(&mut self, bytes: usize, now: Duration) -> Duration {
        if self.way.round_trip.is_zero() {
            return now;
        }
        // The caller may have waited long for something to send.
        if now >= self.round_began + self.way.round_trip {
            self.end_round(now);
        }
        (self.used, self.last_sent) = (self.used + bytes, now);
        for _ in 0..bytes.div_ceil(MSS) {
            if self.loses() {
                self.lost += 1;
                let again = now + self.way.round_trip * self.attempts() + self.way.round_trip / 2;
                self.not_before = self.not_before.max(again);
            }
        }
        self.not_before = self.not_before.max(now + self.way.round_trip / 2);
        self.not_before
    }

    fn budget(&self) -> usize {
        (self.window * MSS as f64) as usize
    }

    fn loses(&mut self) -> bool {
        self.random.below(1_000_000) < self.way.losses
    }

    /// How often a lost packet is sent again until it arrives.
    fn attempts(&mut self) -> u32 {
        let mut attempts = 1;
        while attempts < 8 && self.loses() {
            attempts += 1;
        }
        attempts
    }

    fn end_round(&mut self, now: Duration) {
        if self.lost > 0 {
            self.threshold = (self.window / 2.0).max(2.0);
            self.window = self.threshold;
        } else if self.used >= self.budget() {
            let grown = if self.window < self.threshold { self.window * 2.0 } else { self.window + 1.0 };
            self.window = if self.window < self.threshold { grown.min(self.threshold) } else { grown };
        }
        if now > self.last_sent + IDLE {
            self.window = self.window.min(WINDOW_FIRST);
        }
        let next = self.round_began + self.way.round_trip;
        self.round_began = if now < next + self.way.round_trip { next } else { now };
        // What was lost goes out again first.
        (self.used, self.lost) = (self.lost * MSS, 0);
    }
}
