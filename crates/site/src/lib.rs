//! One configured site: its runs, its imports, and what people may ask of it.
//!
//! Everything a person can do at a site is a method of [`Site`]; command line, REST API and pages are thin callers.
//!
//! An event is a hint, never an order: it is kept in the [`catalog`], then looked into on signal and by the clock; what it
//! leads to is one run for each version of an object, however often it is told.

mod browse;
mod catalog;
pub mod config;
mod error;
mod event;
mod exports;
mod ground;
mod images;
mod intake;
mod notify;
mod overview;
mod places;
mod report;
mod restores;
mod schedule;
mod site;
mod state;
mod sweep;
mod trouble;
mod work;

pub use browse::{FileLine, FileListing, FilePath, OpenFile};
pub use catalog::{Hint, HintState, NewHint};
pub use config::Config;
pub use error::{Error, ErrorKind, Result};
pub use event::{EventObject, parse as parse_event};
pub use exports::{ExportBegun, ExportRequest};
pub use images::{GrowthPoint, HoldRequest, RepositoryFigures, SnapshotLine};
pub use intake::EXTENSIONS;
pub use leeward_import::work as worker;
pub use leeward_protect::job::Opening;
pub use notify::{Delivery, DeliveryState, Occasion, ReceiverView, Tried};
pub use overview::{ImageLine, Overview, RunCount};
pub use report::{ImageReport, Report, ReportGroup, ReportQuestion};
pub use restores::{RestoreBegun, RestoreRequest, SnapshotAsked};
pub use schedule::{CatchUp, ScheduleView};
pub use site::{ImportOptions, ImportRequest, OpenRepository, Site};
pub use state::{About, Going, Moved, Restored, Restoring, StateInputs, check_state, move_state, restore};
pub use sweep::{Leftover, LeftoverProblem, Leftovers, Removal, Removed};
