//! Stopping on a signal.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on the first SIGINT, SIGTERM or SIGHUP asks the work to stop and clean up; the second ends the process at once.
pub fn watch() {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The order counts: the shutdown looks at the flag before the same signal sets it. A signal that cannot be
        // watched keeps its usual effect, which is to end the process.
        let flag = Arc::clone(&INTERRUPTED);
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, flag);
        let _ = signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED));
    }
}

/// Set once the work has to stop.
pub fn flag() -> &'static AtomicBool {
    &INTERRUPTED
}

/// Whether the work has to stop.
pub fn is_requested() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
