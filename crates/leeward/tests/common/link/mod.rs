//! A long way that loses packets, for TCP connections on this machine: stands in where the kernel has no `netem`.
//!
//! Whoever connects to a [`Link`] reaches what is behind it, each direction of each connection as if it were sent by a
//! TCP of its own over that way ([`Reno`]). There is no bound on all connections together: what is modelled is a fast line on
//! which the loss, and not its width, limits each connection. Without a round trip nothing is modelled, and bytes are
//! only counted. [`Link::stop_after`] lets nothing more through than so many bytes, which makes interruptions exact.
#![allow(dead_code, reason = "each user needs a part")]

pub mod reno;

use std::io::{Read, Result, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use reno::Reno;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces that may be on their way in one direction of a connection.
const PIECES_MAX: usize = 4096;

/// What the way is like.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// From one end to the other and back; zero: nothing is modelled.
    pub round_trip: Duration,
    /// How many packets in a million are lost.
    pub losses: u64,
    /// What is lost follows from it, and from the number of the connection.
    pub seed: u64,
}

impl Way {
    /// Bytes are counted, and nothing else.
    pub const PLAIN: Self = Self { round_trip: Duration::ZERO, losses: 0, seed: 0 };
}

/// Bytes that may still pass upwards, and who waits at that bound.
struct Gate {
    left: u64,
    is_reached: bool,
    /// Counts the times that it was opened again.
    openings: u64,
}

struct Shared {
    to: SocketAddr,
    way: Way,
    connections: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    gate: Mutex<Gate>,
    changed: Condvar,
    is_over: AtomicBool,
}

/// A way to one address.
pub struct Link {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Link {
    /// Listens on a free port, and passes on to `to`.
    ///
    /// # Errors
    /// The system gives no port.
    pub fn start(to: SocketAddr, way: Way) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        if !way.round_trip.is_zero() {
            // So that a sender does not take megabytes in this machine's memory for sent.
            rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 32 << 10)?;
        }
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            to,
            way,
            connections: AtomicU64::new(0),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            gate: Mutex::new(Gate { left: u64::MAX, is_reached: false, openings: 0 }),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(&listener));
        Ok(Self { shared, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Bytes that went from those who connected to what is behind.
    pub fn up_bytes(&self) -> u64 {
        self.shared.up.load(Ordering::Relaxed)
    }

    /// Bytes that came back.
    pub fn down_bytes(&self) -> u64 {
        self.shared.down.load(Ordering::Relaxed)
    }

    /// Lets so many more bytes pass upwards, and then none.
    pub fn stop_after(&self, bytes: u64) {
        let mut gate = self.shared.gate();
        (gate.left, gate.is_reached) = (bytes, false);
    }

    /// Waits a moment until [`Link::stop_after`] has come true; whether it has.
    pub fn is_stopped(&self, at_most: Duration) -> bool {
        let is_open = |gate: &mut Gate| !gate.is_reached;
        let gate = self.shared.changed.wait_timeout_while(self.shared.gate(), at_most, is_open);
        gate.unwrap_or_else(PoisonError::into_inner).0.is_reached
    }

    /// Cuts the connections that were stopped, and lets later ones pass.
    pub fn open(&self) {
        let mut gate = self.shared.gate();
        (gate.left, gate.is_reached, gate.openings) = (u64::MAX, false, gate.openings + 1);
        self.shared.changed.notify_all();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.open();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for near in listener.incoming() {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let Ok(near) = near else { continue };
            let number = self.connections.fetch_add(1, Ordering::Relaxed);
            if let Ok(far) = TcpStream::connect(self.to) {
                // A connection that breaks here is seen by both its ends.
                let _ = self.connect(near, far, number);
            }
        }
    }

    fn connect(self: &Arc<Self>, near: TcpStream, far: TcpStream, number: u64) -> Result<()> {
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let (near_back, far_back) = (near.try_clone()?, far.try_clone()?);
        // What is sent first has waited for the connection to come about.
        let up = Reno::new(self.way, number * 2, self.way.round_trip);
        let down = Reno::new(self.way, number * 2 + 1, Duration::ZERO);
        let (this, back) = (Arc::clone(self), Arc::clone(self));
        thread::spawn(move || this.pump(near, far, up, true));
        thread::spawn(move || back.pump(far_back, near_back, down, false));
        Ok(())
    }

    /// Passes one direction on until it ends.
    fn pump(&self, mut from: TcpStream, to: TcpStream, mut sender: Reno, is_up: bool) {
        let (queue, pieces) = sync_channel(PIECES_MAX);
        let Ok(ended) = from.try_clone() else { return };
        thread::spawn(move || deliver(&pieces, to, &ended));
        let began = Instant::now();
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let room = match sender.room(began.elapsed()) {
                Ok(room) => room.min(PIECE_BYTES),
                Err(until) => {
                    thread::sleep(until.saturating_sub(began.elapsed()));
                    continue;
                }
            };
            let Some(read) = from.read(&mut buffer[..room]).ok().filter(|read| *read > 0) else { return };
            let openings = self.gate().openings;
            let passed = if is_up { self.pass(read) } else { read };
            let counter = if is_up { &self.up } else { &self.down };
            counter.fetch_add(passed as u64, Ordering::Relaxed);
            let due = began + sender.send(passed, began.elapsed());
            if queue.send((due, buffer[..passed].to_vec())).is_err() {
                return;
            }
            if passed < read {
                self.stand(openings);
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
        }
    }

    /// How many of these bytes may pass.
    fn pass(&self, bytes: usize) -> usize {
        let mut gate = self.gate();
        let passed = gate.left.min(bytes as u64);
        if gate.left != u64::MAX {
            gate.left -= passed;
        }
        if passed < bytes as u64 {
            gate.is_reached = true;
            self.changed.notify_all();
        }
        passed as usize
    }

    /// Waits until the gate is opened again.
    fn stand(&self, openings: u64) {
        let is_shut = |gate: &mut Gate| gate.openings == openings;
        drop(self.changed.wait_while(self.gate(), is_shut));
    }
}

/// Hands pieces on when they are due. When the other end takes no more, `from` is told.
fn deliver(pieces: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream, from: &TcpStream) {
    for (due, piece) in pieces {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            let _ = from.shutdown(Shutdown::Read);
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
