//! What a schedule begins.

use leeward_import::job as import;
use leeward_protect::check::parse_budget;
use leeward_protect::job::{
    BACKUP, BackupInputs, CHECK, CheckInputs, RETAIN, RetainInputs, backup_plan, check_plan, retain_plan,
};
use leeward_runs::Plan;
use serde::Serialize;
use serde_json::Value;

use crate::site::import_inputs;
use crate::state::{STATE, image_of, state_plan};
use crate::{Config, ImportRequest, StateInputs};

/// What a schedule begins, with all that it is given.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    /// The import of an object.
    Import(Box<import::Inputs>),
    /// Backups of disks and machines.
    Backup(BackupInputs),
    /// A check of the repository.
    Check(CheckInputs),
    /// Forgetting, and collecting what is not needed any more.
    Retain(RetainInputs),
    /// A copy of the daemon's own state.
    State(String, StateInputs),
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
    pub const KINDS: [&str; 5] = ["backup", "check", "retain", "state", "import"];

    /// An import.
    ///
    /// # Errors
    /// The site has no such source or target; in words.
    pub fn import(config: &Config, request: &ImportRequest) -> Result<Self, String> {
        let inputs = import_inputs(config, request).map_err(|error| error.to_string())?;
        Ok(Self::Import(Box::new(inputs)))
    }

    /// Backups of disks and machines; of all where none are named.
    ///
    /// # Errors
    /// The site has no such disk or machine, or none; in words.
    pub fn backup(config: &Config, disks: &[String], machines: &[String]) -> Result<Self, String> {
        needs_repository(config)?;
        if let Some(unknown) = disks.iter().find(|name| !config.disks.contains_key(*name)) {
            return Err(format!("there is no [disk.{unknown}]"));
        }
        if let Some(unknown) = machines.iter().find(|name| !config.machines.contains_key(*name)) {
            return Err(format!("there is no [machine.{unknown}]"));
        }
        let (disks, machines) = match (disks, machines) {
            ([], []) => (config.disks.keys().cloned().collect(), config.machines.keys().cloned().collect()),
            (disks, machines) => (disks.to_vec(), machines.to_vec()),
        };
        let inputs = BackupInputs { disks, machines, full: false };
        if inputs.disks.is_empty() && inputs.machines.is_empty() {
            return Err("there is no disk to back up: add a [disk.NAME] or a [machine.NAME]".to_owned());
        }
        backup_plan(&inputs).check().map_err(|error| error.to_string())?;
        Ok(Self::Backup(inputs))
    }

    /// A check.
    ///
    /// # Errors
    /// Its budget is none; in words.
    pub fn check(config: &Config, inputs: &CheckInputs) -> Result<Self, String> {
        needs_repository(config)?;
        if let Some(budget) = &inputs.budget {
            parse_budget(budget).map_err(|what| format!("budget: {what}"))?;
            if inputs.read_data {
                return Err("give a budget or read_data, not both".to_owned());
            }
        }
        Ok(Self::Check(inputs.clone()))
    }

    /// Retention.
    ///
    /// # Errors
    /// Its rules make no sense; in words.
    pub fn retain(config: &Config, inputs: &RetainInputs) -> Result<Self, String> {
        needs_repository(config)?;
        inputs.check()?;
        Ok(Self::Retain(inputs.clone()))
    }

    /// A copy of the daemon's own state.
    ///
    /// # Errors
    /// No rule keeps any; in words.
    pub fn state(config: &Config, inputs: &StateInputs) -> Result<Self, String> {
        needs_repository(config)?;
        inputs.keep.rules()?;
        let image = image_of(&config.name).map_err(|error| error.to_string())?;
        Ok(Self::State(image.to_string(), inputs.clone()))
    }

    /// The kind of its runs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Import(_) => import::KIND,
            Self::Backup(_) => BACKUP,
            Self::Check(_) => CHECK,
            Self::Retain(_) => RETAIN,
            Self::State(..) => STATE,
        }
    }

    /// A run of it; of the whole work where `full` says so.
    pub fn draft(&self, full: bool) -> Result<Draft, String> {
        let repository = "the repository".to_owned();
        match self {
            Self::Import(inputs) => draft(inputs.object.clone(), import::plan(inputs), inputs.as_ref()),
            Self::Backup(inputs) => {
                let inputs = BackupInputs { full, ..inputs.clone() };
                let names: Vec<&str> =
                    inputs.disks.iter().chain(&inputs.machines).map(String::as_str).collect();
                draft(names.join(", "), backup_plan(&inputs), &inputs)
            }
            Self::Check(inputs) => draft(repository, check_plan(), inputs),
            Self::Retain(inputs) => draft(repository, retain_plan(), inputs),
            Self::State(image, inputs) => draft(image.clone(), state_plan(), inputs),
        }
    }
}

fn draft(subject: String, plan: Plan, inputs: &impl Serialize) -> Result<Draft, String> {
    let inputs = serde_json::to_value(inputs).map_err(|error| error.to_string())?;
    Ok(Draft { subject, plan, inputs })
}

fn needs_repository(config: &Config) -> Result<(), String> {
    match config.repository {
        Some(_) => Ok(()),
        None => Err("it needs a [repository]".to_owned()),
    }
}
