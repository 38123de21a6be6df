//! From errors of providers, stores and readers to faults of steps.

use leeward_cloud::ErrorKind as CloudKind;
use leeward_runs::step::{Context, Fault};
use leeward_store::with_causes;

use crate::work::Bench;
use crate::{Error, ErrorKind, Progress, Watch};

/// A provider's failure. What may be another's turn (a conflict, a limit, rights that are not there yet) is tried again.
pub(super) fn of_cloud(error: &leeward_cloud::Error) -> Fault {
    let text = with_causes(error);
    match error.kind() {
        CloudKind::Cancelled => Fault::Stopped,
        CloudKind::Limit => {
            Fault::passing(text, "raise the limit or free what is not needed, then retry the step")
        }
        CloudKind::NotFound => Fault::passing(
            text,
            "see that it is there and that the daemon has the right to see it, then retry the step",
        ),
        CloudKind::Passing | CloudKind::Io | CloudKind::Busy | CloudKind::Conflict => {
            Fault::passing(text, "see that the provider answers, then retry the step")
        }
        CloudKind::Denied => {
            Fault::lasting(text, "see the daemon's credentials and rights, then retry the step")
        }
        _ => Fault::lasting(text, "change what was asked for, then retry the step"),
    }
}

/// A failure of the data path.
pub(super) fn of_import(error: &Error) -> Fault {
    if let Error::Device(error) = error {
        return of_cloud(error);
    }
    if let Error::Disk(leeward_disk::Error::Backend { source, .. }) = error
        && let Some(error) = source.downcast_ref::<leeward_repository::Error>()
    {
        return super::snapshot::fault_of(error);
    }
    let text = with_causes(error);
    match error.kind() {
        ErrorKind::Cancelled => Fault::Stopped,
        ErrorKind::Replaced => {
            Fault::lasting(text, "cancel this run; the new object has a run of its own, or begin one by hand")
        }
        _ if error.is_transient() => {
            Fault::passing(text, "see that the source and the volume answer, then retry the step")
        }
        ErrorKind::Access => {
            Fault::lasting(text, "see that the object is there and may be read, then retry the step")
        }
        ErrorKind::Space => Fault::lasting(text, "see the volume, then retry the step"),
        ErrorKind::Usage => {
            Fault::lasting(text, "edit the inputs or the object's metadata, then retry the step")
        }
        _ => Fault::lasting(text, "upload a sound image; see it with: leeward disk info"),
    }
}

/// A failure of the data path at a bench: where it was told to stop, that is why.
pub(crate) fn of_bench(bench: &dyn Bench, error: &Error) -> Fault {
    if bench.is_stopped() { Fault::Stopped } else { of_import(error) }
}

/// A source's failure.
pub(super) fn of_store(error: &leeward_store::Error) -> Fault {
    let text = with_causes(error);
    match error.kind() {
        leeward_store::ErrorKind::NotFound => {
            Fault::lasting(text, "see that the object is there and may be read, then retry the step")
        }
        leeward_store::ErrorKind::Conflict => {
            Fault::lasting(text, "the object was replaced; begin a new import of it")
        }
        _ => Fault::passing(text, "see that the source answers, then retry the step"),
    }
}

/// Something that the site has not, or cannot reach.
pub(super) fn of_place(what: String) -> Fault {
    Fault::passing(what, "see the site's configuration and that the place answers, then retry the step")
}

/// A step that watches the data path.
pub(super) struct Watching<'a> {
    pub context: &'a Context,
    pub note: &'a str,
}

impl Watch for Watching<'_> {
    fn progress(&self, progress: Progress) {
        self.context.progress(progress.done_bytes, Some(progress.total_bytes), self.note);
    }

    fn log(&self, line: &str) {
        self.context.say(line);
    }

    fn is_cancelled(&self) -> bool {
        self.context.is_stopped()
    }
}
