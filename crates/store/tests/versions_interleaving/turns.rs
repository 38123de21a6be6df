//! Clients that take turns, and what they did in which order.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};

use leeward_store::simulation::Random;

/// Lets clients take turns, one request each. A client is next only when every other one waits or has ended.
pub struct Turns {
    state: Mutex<TurnState>,
    changed: Condvar,
    /// What was done, in order: only who is next writes here.
    story: Mutex<Vec<String>>,
}

struct TurnState {
    random: Random,
    running: BTreeSet<u64>,
    waiting: BTreeSet<u64>,
    next: Option<u64>,
    /// Who goes on for so many turns: the others stand still meanwhile.
    burst: (u64, u64),
}

impl Turns {
    pub fn new(seed: u64, clients: impl Iterator<Item = u64>) -> Self {
        let state = TurnState {
            random: Random::new(seed),
            running: clients.collect(),
            waiting: BTreeSet::new(),
            next: None,
            burst: (0, 0),
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), story: Mutex::new(Vec::new()) }
    }

    /// What was done, a line each.
    pub fn story(&self) -> String {
        self.story.lock().unwrap().join("\n")
    }

    fn choose(state: &mut TurnState) {
        if state.next.is_some() || state.running.is_empty() || state.waiting != state.running {
            return;
        }
        let (client, left) = state.burst;
        if left > 0 && state.running.contains(&client) {
            state.burst = (client, left - 1);
        } else {
            let running: Vec<u64> = state.running.iter().copied().collect();
            let client = running[state.random.below(running.len() as u64) as usize];
            state.burst = (client, [0, 1, 3, 10, 60][state.random.below(5) as usize]);
        }
        state.next = Some(state.burst.0);
    }

    pub fn wait(&self, client: u64) {
        let mut state = self.state.lock().unwrap();
        state.waiting.insert(client);
        Self::choose(&mut state);
        self.changed.notify_all();
        while state.next != Some(client) {
            state = self.changed.wait(state).unwrap();
        }
        state.next = None;
        state.waiting.remove(&client);
    }

    /// Tells what a client does; only who is next may.
    pub fn note(&self, client: u64, what: &str) {
        self.story.lock().unwrap().push(format!("{client} {what}"));
    }

    pub fn end(&self, client: u64) {
        let mut state = self.state.lock().unwrap();
        state.running.remove(&client);
        Self::choose(&mut state);
        self.changed.notify_all();
    }
}
