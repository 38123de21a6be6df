//! Turns of workers: what all of them, and each, may have under way here at once. One that is hostile, or takes nothing of what
//! it has asked for, costs bounded memory and keeps the others from nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use leeward_site::worker::Writer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;

/// Reads of objects at once, each of which holds what was read until it is taken.
const READS_MAX: usize = 24;
/// Of these for one worker: as many as it has under way by itself.
const READS_OF_ONE: usize = 12;
/// Reports of one worker at once: it sends one after the other, and an answer that was lost may still be under way.
const REPORTS_OF_ONE: usize = 2;
/// Downloads of the program at once.
const PROGRAMS_MAX: usize = 8;
/// How long a request waits for its turn.
const WAIT: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 20_000 });

/// The turns.
pub(super) struct WorkTurns {
    reads: Arc<Semaphore>,
    programs: Arc<Semaphore>,
    /// Those of each worker, while it has any.
    mine: Mutex<BTreeMap<Writer, Mine>>,
}

/// Those of one worker.
#[derive(Clone)]
struct Mine {
    reads: Arc<Semaphore>,
    reports: Arc<Semaphore>,
}

/// A turn of a worker and of all; it ends when this goes.
pub(super) struct Turn {
    _mine: OwnedSemaphorePermit,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Default for WorkTurns {
    fn default() -> Self {
        Self {
            reads: Arc::new(Semaphore::new(READS_MAX)),
            programs: Arc::new(Semaphore::new(PROGRAMS_MAX)),
            mine: Mutex::default(),
        }
    }
}

async fn one_of(turns: Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Problem> {
    match tokio::time::timeout(WAIT, turns.acquire_owned()).await {
        Ok(Ok(turn)) => Ok(turn),
        _ => Err(Problem::busy("workers have too much under way here")),
    }
}

impl WorkTurns {
    fn of(&self, writer: &Writer) -> Mine {
        let mut mine = self.mine.lock().unwrap_or_else(PoisonError::into_inner);
        // A turn that is had holds its semaphore; what nobody holds is forgotten.
        mine.retain(|_, of| Arc::strong_count(&of.reads) + Arc::strong_count(&of.reports) > 2);
        let turns = |count| Arc::new(Semaphore::new(count));
        let new = || Mine { reads: turns(READS_OF_ONE), reports: turns(REPORTS_OF_ONE) };
        mine.entry(writer.clone()).or_insert_with(new).clone()
    }

    /// A turn to read an object.
    pub async fn read(&self, writer: &Writer) -> Result<Turn, Problem> {
        let mine = one_of(self.of(writer).reads).await?;
        Ok(Turn { _mine: mine, _of_all: Some(one_of(Arc::clone(&self.reads)).await?) })
    }

    /// A turn to report.
    pub async fn report(&self, writer: &Writer) -> Result<Turn, Problem> {
        Ok(Turn { _mine: one_of(self.of(writer).reports).await?, _of_all: None })
    }

    /// A turn to fetch the program.
    pub async fn program(&self) -> Result<OwnedSemaphorePermit, Problem> {
        one_of(Arc::clone(&self.programs)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_keeps_all_its_turns_leaves_the_others_theirs() {
        let turns = WorkTurns::default();
        let (greedy, other) = (Writer::Run("a".to_owned()), Writer::Run("b".to_owned()));
        let mut held = Vec::new();
        for _ in 0..READS_OF_ONE {
            held.push(turns.read(&greedy).await.unwrap_or_else(|_| panic!("a turn of its own")));
        }
        assert!(turns.read(&greedy).await.is_err(), "no more than its own");
        assert!(turns.read(&other).await.is_ok());
        let first = turns.report(&greedy).await;
        let second = turns.report(&greedy).await;
        assert!(first.is_ok() && second.is_ok() && turns.report(&greedy).await.is_err());
        held.pop();
        assert!(turns.read(&greedy).await.is_ok());
        drop((held, first, second));
        assert!(turns.read(&other).await.is_ok());
        assert_eq!(
            turns.mine.lock().unwrap_or_else(PoisonError::into_inner).len(),
            1,
            "who has none is forgotten"
        );
    }
}
