//! Retention: what no rule keeps is forgotten, then what nothing needs is deleted.

use std::sync::Arc;

use jiff::Span;
use leeward_repository::{CollectOptions, ImageName, KeepRules};
use leeward_runs::Plan;
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Kind, Outcome, Step};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Attended, Ground, Opening, fault, open, plan_of, step_of};
use crate::{Attendant, Error, retain, size};

/// The kind of these runs.
pub const RETAIN: &str = "retain";
const VERSION: u32 = 1;
const FORGET: &str = "forget";
const COLLECT: &str = "collect";

/// Which snapshots are kept, as a configuration has it: the rules of `leeward forget`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// So many of the last.
    pub last: usize,
    /// The last of so many hours.
    pub hourly: usize,
    /// The last of so many days.
    pub daily: usize,
    /// The last of so many weeks.
    pub weekly: usize,
    /// The last of so many months.
    pub monthly: usize,
    /// The last of so many years.
    pub yearly: usize,
    /// All that are not older than this.
    pub within: Option<String>,
    /// All that carry one of these tags.
    pub tags: Vec<String>,
}

impl Keep {
    /// The rules.
    ///
    /// # Errors
    /// A span of time is none, or nothing would be kept; in words.
    pub fn rules(&self) -> Result<KeepRules, String> {
        let within = self.within.as_deref().map(str::parse::<Span>).transpose();
        let rules = KeepRules {
            last: self.last,
            hourly: self.hourly,
            daily: self.daily,
            weekly: self.weekly,
            monthly: self.monthly,
            yearly: self.yearly,
            within: within.map_err(|error| format!("within: {error}; give for example 30d"))?,
            tags: self.tags.clone(),
        };
        match rules.is_empty() {
            true => Err("no rule keeps anything: give for example keep = { daily = 14 }".to_owned()),
            false => Ok(rules),
        }
    }
}

/// What retention is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetainInputs {
    /// The images whose snapshots are looked at; all but those of the control plane where empty.
    pub images: Vec<ImageName>,
    /// What is kept of them; where absent, nothing is forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// After how long forgotten snapshots are let go, as `7d`.
    pub window: String,
    /// Packs are rewritten of which more than this percentage is unused.
    pub max_unused: u8,
}

impl Default for RetainInputs {
    fn default() -> Self {
        Self { images: Vec::new(), keep: None, window: "7d".to_owned(), max_unused: 30 }
    }
}

impl RetainInputs {
    /// Whether it can be done at all.
    ///
    /// # Errors
    /// It cannot; in words.
    pub fn check(&self) -> Result<(), String> {
        self.keep.as_ref().map(Keep::rules).transpose()?;
        self.options()?;
        Ok(())
    }

    fn options(&self) -> Result<CollectOptions, String> {
        if self.max_unused > 100 {
            return Err("max_unused is a percentage from 0 to 100".to_owned());
        }
        Ok(CollectOptions {
            unused_max: f64::from(self.max_unused) / 100.0,
            revoke: Vec::new(),
            window: retain::span(&self.window).map_err(|what| format!("window: {what}"))?,
            trust_clock: false,
        })
    }
}

/// The plan of retention.
#[must_use]
pub fn retain_plan() -> Plan {
    let steps = vec![
        step_of(FORGET, "Forget the snapshots that no rule keeps", &[]),
        step_of(COLLECT, "Delete what no snapshot needs", &[FORGET]),
    ];
    plan_of(RETAIN, VERSION, steps)
}

pub(super) struct RetainKind(Arc<dyn Ground>);

impl RetainKind {
    pub fn new(ground: &Arc<dyn Ground>) -> Self {
        Self(Arc::clone(ground))
    }
}

impl Kind for RetainKind {
    fn name(&self) -> &str {
        RETAIN
    }

    fn step(&self, version: u32, name: &str) -> Option<Arc<dyn Step>> {
        let ground = Arc::clone(&self.0);
        match (version, name) {
            (VERSION, FORGET) => Some(Arc::new(Forget(ground))),
            (VERSION, COLLECT) => Some(Arc::new(Collect(ground))),
            _ => None,
        }
    }
}

fn senseless(what: String) -> Fault {
    Fault::lasting(what, "see the schedule in the site's configuration")
}

struct Forget(Arc<dyn Ground>);

impl Step for Forget {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs: RetainInputs = context.inputs()?;
        let Some(keep) = &inputs.keep else {
            return Ok(Outcome::Skipped("no rules are configured".to_owned()));
        };
        let rules = keep.rules().map_err(senseless)?;
        let failed = |error: Error| fault(&error, context);
        let repository = open(&self.0, &Opening::default())?;
        let images = match inputs.images.is_empty() {
            false => inputs.images,
            true => repository.images().map_err(|error| failed(error.into()))?,
        };
        let mut count = 0;
        for image in images.iter().filter(|image| !image.as_str().starts_with(super::STATE_IMAGES)) {
            context.check()?;
            let decisions = retain::plan(&repository, image, &rules).map_err(failed)?;
            let forgotten = retain::forget(&repository, image, &decisions).map_err(failed)?;
            if !forgotten.is_empty() {
                let names: Vec<_> = forgotten.iter().map(|id| id.short()).collect();
                context.say(format!("forgot {} of {image}: {}", forgotten.len(), names.join(", ")));
            }
            count += forgotten.len();
        }
        Ok(Outcome::Done(json!({ "images": images.len(), "forgotten": count })))
    }
}

struct Collect(Arc<dyn Ground>);

impl Step for Collect {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs: RetainInputs = context.inputs()?;
        let options = inputs.options().map_err(senseless)?;
        let repository = open(&self.0, &Opening::default())?;
        let attended = Attended(context, "");
        let control = attended.begins(0);
        let outcome = repository.collect(&options, control.as_ref());
        let outcome = outcome.map_err(|error| fault(&error.into(), context))?;
        if let Some(doubt) = &outcome.clock_doubt {
            context.log(Level::Warning, &format!("no forgotten snapshot was let go: {doubt}"));
        }
        context.say(format!(
            "deleted {}, wrote {}; {} snapshots are kept, {} packs wait for running backups",
            size::show(outcome.deleted_bytes),
            size::show(outcome.written_bytes),
            outcome.snapshots,
            outcome.pending_packs
        ));
        Outcome::done(&outcome)
    }
}
