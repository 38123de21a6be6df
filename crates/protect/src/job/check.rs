//! Checks of the repository.

use std::sync::Arc;

use leeward_repository::ReadData;
use leeward_runs::Plan;
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Kind, Outcome, Step};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Attended, Ground, Opening, fault, open, plan_of, step_of};
use crate::{Attendant, Error, check, size};

/// The kind of these runs.
pub const CHECK: &str = "check";
const VERSION: u32 = 1;
const STEP: &str = "check";
/// Findings that are told; all of them are counted.
const TOLD_MAX: usize = 50;

/// What a check is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckInputs {
    /// Reads so much of what was read longest ago: `50GiB`, `30min`, or both with a comma between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    /// Reads every stored byte.
    #[serde(default)]
    pub read_data: bool,
}

/// The plan of a check.
#[must_use]
pub fn check_plan() -> Plan {
    plan_of(CHECK, VERSION, vec![step_of(STEP, "Check the repository", &[])])
}

pub(super) struct CheckKind(Arc<dyn Ground>);

impl CheckKind {
    pub fn new(ground: &Arc<dyn Ground>) -> Self {
        Self(Arc::clone(ground))
    }
}

impl Kind for CheckKind {
    fn name(&self) -> &str {
        CHECK
    }

    fn step(&self, version: u32, name: &str) -> Option<Arc<dyn Step>> {
        (version == VERSION && name == STEP).then(|| Arc::new(Check(Arc::clone(&self.0))) as Arc<dyn Step>)
    }
}

struct Check(Arc<dyn Ground>);

impl Step for Check {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs: CheckInputs = context.inputs()?;
        let budget = inputs.budget.as_deref().map(check::parse_budget).transpose();
        let budget = budget.map_err(|what| Fault::lasting(what, "give a budget as 50GiB or 30min"))?;
        let repository = open(&self.0, &Opening { examined: true, ..Opening::default() })?;
        let failed = |error: Error| fault(&error, context);
        let attended = Attended(context, "");
        let all = || repository.pack_bytes().map_err(|error| failed(error.into()));
        let (outcome, turn) = match budget {
            Some(budget) => {
                let control = attended.begins(budget.bytes.unwrap_or(u64::MAX).min(all()?));
                let record = self.0.verified().join(&repository.config().repository_id);
                let mut flaw =
                    |what: &str| context.log(Level::Warning, &format!("{what}; the turn starts anew"));
                let turn = check::in_turn(&repository, &record, budget, control.as_ref(), &mut flaw)
                    .map_err(failed)?;
                (turn.outcome, Some(turn.report))
            }
            None => {
                let (read, bytes) =
                    if inputs.read_data { (ReadData::All, all()?) } else { (ReadData::No, 0) };
                let control = attended.begins(bytes);
                let outcome = repository.check(read, control.as_ref());
                (outcome.map_err(|error| failed(error.into()))?, None)
            }
        };
        context.say(format!(
            "checked {} snapshots, {} chunks, {} packs, read {}",
            outcome.snapshots,
            outcome.chunks,
            outcome.packs,
            size::show(outcome.read_bytes)
        ));
        for finding in outcome.findings.iter().take(TOLD_MAX) {
            context.log(Level::Error, &format!("DAMAGED {}: {}", finding.object, finding.what));
            context.log(
                Level::Error,
                &format!("  touches {}; hint: {}", finding.touches.join(", "), finding.advice),
            );
        }
        match outcome.findings.len() {
            0 => Ok(Outcome::Done(json!({
                "snapshots": outcome.snapshots, "chunks": outcome.chunks, "packs": outcome.packs,
                "read_bytes": outcome.read_bytes, "turn": turn,
            }))),
            count => Err(Fault::lasting(
                format!("{count} objects of the repository are damaged"),
                "see the log of this step, and mend with: leeward check --repair",
            )),
        }
    }
}
