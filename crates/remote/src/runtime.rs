//! The one small runtime on which all requests of the process run.
//!
//! Callers are ordinary threads; they wait for an answer, and may be as many as they like. Nothing outside this crate
//! sees a future.

use std::future::Future;
use std::sync::OnceLock;
use std::sync::mpsc;

use tokio::runtime::{Builder, Runtime};

/// Threads that move bytes; the work on them (copying, encryption of the connection) is small.
const THREADS: usize = 2;

static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();

fn runtime() -> Option<&'static Runtime> {
    let build =
        || Builder::new_multi_thread().worker_threads(THREADS).thread_name("requests").enable_all().build();
    RUNTIME.get_or_init(|| build().ok()).as_ref()
}

/// Runs a future to its end and returns what came of it; `None` when this machine gives the process no threads, or the
/// future panicked. The caller's thread sleeps meanwhile: so it may be any thread, but must not be one of a runtime that
/// others wait for.
pub(crate) fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    runtime()?.spawn(async move {
        // The receiver waits below, so this cannot fail.
        let _ = sender.send(future.await);
    });
    receiver.recv().ok()
}

/// Runs a future beside the caller; `false` when this machine gives the process no threads.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> bool {
    runtime().is_some_and(|runtime| {
        runtime.spawn(future);
        true
    })
}

#[cfg(test)]
mod tests {
    use super::wait;

    #[test]
    fn many_threads_wait_for_their_own_answers() {
        std::thread::scope(|scope| {
            for number in 0..16_u32 {
                scope.spawn(move || assert_eq!(wait(async move { number * 2 }), Some(number * 2)));
            }
        });
    }

    #[test]
    fn a_wait_inside_another_runtime_does_not_panic() {
        let outer = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(outer.block_on(async { wait(async { 7 }) }), Some(7));
    }
}
