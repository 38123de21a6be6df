//! What a schedule begins.

use leeward_import::job as import;
use leeward_runs::Plan;
use serde_json::Value;

use crate::site::import_inputs;
use crate::{Config, ImportRequest};

/// What a schedule begins, with all that it is given.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    /// The import of an object.
    Import(Box<import::Inputs>),
}

/// A run that is to be.
pub(crate) struct Draft {
    /// What it is about.
    pub subject: String,
    /// Its plan.
    pub plan: Plan,
    /// What it is given.
    pub inputs: Value,
}

impl Job {
    /// The keys by which a schedule says what it begins.
    pub const KINDS: [&str; 1] = ["import"];

    /// An import.
    ///
    /// # Errors
    /// The site has no such source or target; in words.
    pub fn import(config: &Config, request: &ImportRequest) -> Result<Self, String> {
        let inputs = import_inputs(config, request).map_err(|error| error.to_string())?;
        Ok(Self::Import(Box::new(inputs)))
    }

    /// The kind of its runs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Import(_) => import::KIND,
        }
    }

    /// A run of it; of the whole work where `full` says so.
    pub fn draft(&self, _full: bool) -> Result<Draft, String> {
        match self {
            Self::Import(inputs) => Ok(Draft {
                subject: inputs.object.clone(),
                plan: import::plan(inputs),
                inputs: serde_json::to_value(inputs).map_err(|error| error.to_string())?,
            }),
        }
    }
}
