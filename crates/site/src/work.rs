//! Workers as the site knows them: whose token is whose, what they may read, and the removal of those that nobody needs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use leeward_cloud::provider::{Instance, RUN_TAG, STEP_TAG};
use leeward_import::work::{Grant, Order, Refused, Reply, Report, Writer, token};
use leeward_remote::objects::ObjectHead;
use leeward_runs::{Run, RunId, RunState};
use leeward_store::with_causes;

use crate::catalog::{Catalog, values};
use crate::site::Inner;
use crate::{Error, Result, Site};

/// Tokens of temporary workers, by their digests.
pub(crate) const TABLES: &str = "
CREATE TABLE worker_tokens (digest TEXT PRIMARY KEY, run TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX worker_tokens_run ON worker_tokens (run);
";

/// How often it is looked for workers that nobody needs, at most.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How long an ended run's worker is left to the run's own steps.
const ENDED_SECONDS: u64 = 60;

impl Catalog {
    pub fn keep_token(&self, run: &str, digest: &str) -> Result<()> {
        self.change(
            "keep a worker's token",
            "INSERT INTO @worker_tokens (digest, run) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            values![digest, run],
        )
    }

    pub fn end_tokens(&self, run: &str) -> Result<()> {
        self.change("end a worker's token", "DELETE FROM @worker_tokens WHERE run = ?1", values![run])
    }

    pub(crate) fn run_of_token(&self, digest: &str) -> Result<Option<String>> {
        let found = self.find(
            "look for a worker's token",
            "SELECT run FROM @worker_tokens WHERE digest = ?1",
            values![digest],
            |row| row.text("run"),
        )?;
        Ok(found.into_iter().next())
    }

    pub(crate) fn runs_with_tokens(&self) -> Result<Vec<String>> {
        self.find("look for workers' tokens", "SELECT DISTINCT run FROM @worker_tokens", values![], |row| {
            row.text("run")
        })
    }
}

impl Site {
    /// The temporary worker whose token has this text: it counts while its run does.
    ///
    /// # Errors
    /// The state fails.
    pub fn worker_of(&self, text: &str) -> Result<Option<Writer>> {
        // A digest is looked for, so the time that it takes says nothing about a token's text.
        let inner = self.inner();
        let Some(run) = inner.catalog.run_of_token(&token::digest(text))? else { return Ok(None) };
        let Ok(id) = run.parse::<RunId>() else { return Ok(None) };
        let found = inner.runs.state().load(&id)?;
        let counts = found.is_some_and(|(run, _)| !run.state.is_final());
        Ok(counts.then_some(Writer::Run(run)))
    }

    /// The standing worker of this name, where one is configured.
    #[must_use]
    pub fn worker_named(&self, name: &str) -> Option<Writer> {
        self.config().workers.contains_key(name).then(|| Writer::Standing(name.to_owned()))
    }

    /// An order for a worker, if there is one now; `process` tells one process of it from another.
    #[must_use]
    pub fn claim_work(&self, worker: &Writer, process: &str) -> Option<Order> {
        self.inner().board.claim(worker, process)
    }

    /// Hands on what a worker reports; when this returns, it is kept.
    ///
    /// # Errors
    /// The order is not this worker's any more, or the step has no time now.
    pub fn report_work(
        &self,
        worker: &Writer,
        task: &str,
        process: &str,
        report: Report,
    ) -> std::result::Result<Reply, Refused> {
        self.inner().board.report(worker, task, process, report)
    }

    /// Whether this process of a worker has an order.
    ///
    /// # Errors
    /// It has not.
    pub fn work_held(&self, worker: &Writer, task: &str, process: &str) -> std::result::Result<(), Refused> {
        self.inner().board.held(worker, task, process)
    }

    /// What a worker may read for its order.
    ///
    /// # Errors
    /// The order is not this worker's any more.
    pub fn work_grant(&self, worker: &Writer, task: &str) -> std::result::Result<Grant, Refused> {
        self.inner().board.grant(worker, task)
    }

    /// Looks at an object of an order.
    ///
    /// # Errors
    /// It is none of the order's, or its source fails.
    pub fn work_head(&self, grant: &Grant, object: &str) -> Result<ObjectHead> {
        if !grant.names.contains_key(object) {
            return Err(Error::NotFound("this order has no such object".to_owned()));
        }
        Ok(grant.objects.head(object)?)
    }
}

/// Removes workers that nobody needs until the site ends: those of runs that have ended (their own steps remove them as a rule,
/// but a step may fail, or be skipped), and of runs that are held for long. A retry launches another.
pub(crate) fn sweep(site: &Arc<Inner>, stop: &AtomicBool) {
    let launching = site.config.targets.values().filter_map(|target| target.temporary.as_ref());
    let Some(shortest) = launching.map(|temporary| temporary.held_seconds).min() else { return };
    let every = SWEEP_EVERY.min(Duration::from_secs(shortest.max(1)));
    let mut swept = Instant::now();
    while !stop.load(Ordering::Acquire) {
        if swept.elapsed() >= every && site.leads() {
            swept = Instant::now();
            if let Err(what) = sweep_once(site) {
                site.complain(&format!("workers that nobody needs cannot be removed: {what}"));
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn sweep_once(site: &Arc<Inner>) -> std::result::Result<(), String> {
    // What fails in one place keeps nobody from looking in the others.
    let mut failed = Vec::new();
    for (name, configured) in &site.config.targets {
        let Some(temporary) = &configured.temporary else { continue };
        if let Err(what) = sweep_target(site, name, temporary.held_seconds, &mut failed) {
            failed.push(format!("target {name}: {what}"));
        }
    }
    failed.extend(end_old_tokens(site).err());
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

fn sweep_target(
    site: &Arc<Inner>,
    name: &str,
    held_seconds: u64,
    failed: &mut Vec<String>,
) -> std::result::Result<(), String> {
    let now = Timestamp::now();
    let target = site.places.target(name)?;
    let Some(instances) = &target.cloud.instances else { return Ok(()) };
    let found = instances.instances_tagged(RUN_TAG, None).map_err(|error| with_causes(&error))?;
    for instance in found.iter().filter(|instance| instance.state.is_live()) {
        let Some(run) = run_of(site, instance)? else { continue };
        if is_needed(&run, held_seconds, now) {
            continue;
        }
        if let Err(error) = instances.terminate(&instance.id) {
            failed.push(format!("instance {}: {}", instance.id, with_causes(&error)));
            continue;
        }
        site.catalog.end_tokens(run.id.as_str()).map_err(|error| with_causes(&error))?;
        site.board.forget(&Writer::Run(run.id.to_string()));
        site.complain(&format!(
            "instance {} is removed: its run {} is {}",
            instance.id,
            run.id,
            run.state.name()
        ));
    }
    Ok(())
}

/// The run that an instance was launched for, where it is one of this site's: others may work in the same place.
fn run_of(site: &Arc<Inner>, instance: &Instance) -> std::result::Result<Option<Run>, String> {
    if instance.tags.get(STEP_TAG).map(String::as_str) != Some("create_instance") {
        return Ok(None);
    }
    let Some(Ok(id)) = instance.tags.get(RUN_TAG).map(|run| run.parse::<RunId>()) else { return Ok(None) };
    let found = site.runs.state().load(&id).map_err(|error| with_causes(&error))?;
    Ok(found.map(|(run, _)| run))
}

fn is_needed(run: &Run, held_seconds: u64, now: Timestamp) -> bool {
    let idle = |seconds: u64| {
        // What happened last: a run that is held says so by the end of its last step.
        let last = run.steps.iter().filter_map(|step| step.finished).chain(run.finished).max();
        let since = now.duration_since(last.unwrap_or(run.created)).as_secs();
        since >= i64::try_from(seconds).unwrap_or(i64::MAX)
    };
    match run.state {
        state if state.is_live() => true,
        RunState::Held => !idle(held_seconds),
        _ => !idle(ENDED_SECONDS.min(held_seconds)),
    }
}

/// Forgets the tokens of runs that have ended or are forgotten.
fn end_old_tokens(site: &Arc<Inner>) -> std::result::Result<(), String> {
    let told = |error: Error| with_causes(&error);
    let runs: BTreeSet<String> = site.catalog.runs_with_tokens().map_err(told)?.into_iter().collect();
    for run in runs {
        let found = match run.parse::<RunId>() {
            Ok(id) => site.runs.state().load(&id).map_err(|error| with_causes(&error))?,
            Err(_) => None,
        };
        if found.is_none_or(|(run, _)| run.state.is_final()) {
            site.catalog.end_tokens(&run).map_err(told)?;
        }
    }
    Ok(())
}
