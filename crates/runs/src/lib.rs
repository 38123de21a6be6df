//! Durable runs: graphs of named steps that survive the process which executes them.
//!
//! A [`Plan`] names steps and what follows what. A [`Run`] is one execution of it: a document in a [`state::State`]
//! (SQLite, or PostgreSQL where several daemons share one), changed only by [`Event`]s. An [`engine::Engine`] takes runs by
//! lease, asks [`next()`] what is to be done, writes down that it will be done, and does it.
//!
//! What always holds:
//! - a step's beginning is on disk before the step acts ([`Event::Started`]);
//! - a run changes only by comparison: who writes must have read what is there, and an engine must still hold the lease
//!   ([`Run::fence`]), so an engine that was thought dead cannot write a late result;
//! - what a step does to the world may happen twice (its process may die before the answer is written down): therefore
//!   steps carry a key that stays the same ([`step::Context::key`]) and find what an earlier attempt made;
//! - deciding is apart from doing: [`next()`] and [`command::decide`] are functions of values.
//!
//! The words are those of the design: a *run* executes a *plan*, its nodes are *steps*. What a step keeps for its next
//! attempt is its *checkpoint*. A run on *hold* waits for a person, who retries, skips, edits inputs, or has it undone.

pub mod command;
pub mod engine;
mod error;
mod event;
mod id;
mod next;
mod plan;
mod run;
pub mod state;
pub mod step;

pub use command::Command;
pub use error::{Error, ErrorKind, Result};
pub use event::{Event, apply};
pub use id::RunId;
pub use next::{Action, next};
pub use plan::{OnCancel, OnFailure, Plan, Retry, StepPlan};
pub use run::{Failure, Run, RunState, StepRecord, StepState};
