//! Who writes where the daemon does not: a standing worker, or one that is launched for the run and removed with it.
//!
//! The temporary worker of a run is found by its tags, not by what a step has left: one that was lost is followed by another,
//! and there may be several for a while. At most one is not being removed; all are removed at the end, however the run ends.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leeward_cloud::ErrorKind;
use leeward_cloud::provider::{
    Device, Domain, Goal, Instance, InstanceId, InstanceSpec, Instances, Owner, Progress, RUN_TAG, UserData,
    choose_domain,
};
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault};

use super::inspect::Seen;
use super::script::{Script, script};
use super::{Inputs, Places, Target, fault};
use crate::work::{Ended, Gone, Grant, Kept, Offered, Order, Patience, Report, Work, Writer, token};
use crate::{metadata, names};

/// The step whose tag the instances have.
pub(super) const STEP: &str = "create_instance";
/// Lines of one report that are kept, at most.
const LINES_MAX: usize = 1000;
/// How long an instance may take to go, where nothing else is configured.
const GO_TIME: Duration = Duration::from_secs(900);

/// Who writes the volumes of a target.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Which kind of it.
    pub kind: WorkerKind,
    /// How long it may go without a word.
    pub lease: Duration,
    /// How long it may take to come, or to come back.
    pub start: Duration,
}

/// A kind of worker.
#[derive(Debug, Clone)]
pub enum WorkerKind {
    /// One that is there.
    Standing(Standing),
    /// One that is launched for each run.
    Temporary(Box<Temporary>),
}

/// A worker that is there.
#[derive(Debug, Clone)]
pub struct Standing {
    /// What it is called: the name of its token.
    pub name: String,
    /// The machine that it runs on, where the provider knows machines.
    pub instance: Option<InstanceId>,
    /// The domain of that machine, where the provider is not to be asked.
    pub domain: Option<String>,
}

/// A worker that is launched for a run.
#[derive(Debug, Clone)]
pub struct Temporary {
    /// The provider's name of its kind.
    pub shape: String,
    /// Processors, where the shape leaves the choice.
    pub cpus: Option<u32>,
    /// Memory in GiB, where the shape leaves the choice.
    pub memory_gib: Option<u32>,
    /// The image that it boots.
    pub image: String,
    /// The network that it is put into.
    pub subnet: String,
    /// Size of its boot volume in GiB.
    pub boot_volume_gib: Option<u32>,
    /// Public keys that may log in.
    pub ssh_keys: Vec<String>,
    /// Tags by which the provider gives it rights, if it is to have any: namespace, key, value.
    pub defined_tags: Vec<(String, String, String)>,
    /// URL at which it reaches this daemon.
    pub server: String,
    /// File with the authority of this daemon's certificate, as PEM.
    pub ca_file: Option<PathBuf>,
    /// Where the program is in the image; it is fetched from the daemon without.
    pub program: Option<PathBuf>,
    /// File with lines of shell that are run before the worker is started.
    pub prepare_file: Option<PathBuf>,
}

impl Worker {
    /// As whom the worker of a run asks for work.
    pub(super) fn writer(&self, context: &Context) -> Writer {
        match &self.kind {
            WorkerKind::Standing(standing) => Writer::Standing(standing.name.clone()),
            WorkerKind::Temporary(_) => Writer::Run(context.run_id().to_string()),
        }
    }

    /// How it is launched, where it is.
    pub(super) fn temporary(&self) -> Option<&Temporary> {
        match &self.kind {
            WorkerKind::Temporary(temporary) => Some(temporary),
            WorkerKind::Standing(_) => None,
        }
    }
}

/// A device as a worker finds it: by its path on the worker's machine.
pub(super) fn device(device: Device) -> Result<PathBuf, Fault> {
    match device {
        Device::Path(path) => Ok(path),
        other => Err(Fault::lasting(
            format!("{other}: a worker writes to devices of its own machine"),
            "attach the target's volumes paravirtualized, or have the daemon itself write them",
        )),
    }
}

/// What is told by a worker and cannot be.
pub(super) fn nonsense(what: &str) -> Fault {
    Fault::lasting(
        format!("the worker tells {what}"),
        "see that worker and daemon are of the same release, then retry the step",
    )
}

/// Has a piece of work done by the target's worker; `keep` keeps what it tells of how far it is.
pub(super) fn work(
    places: &dyn Places,
    context: &Context,
    target: &Target,
    work: Work,
    grant: Option<Grant>,
    keep: &dyn Fn(&Kept) -> Result<(), Fault>,
) -> Result<Ended, Fault> {
    let worker = of(target)?;
    let writer = worker.writer(context);
    let order = Order {
        task: random_name()?,
        run: context.run_id().to_string(),
        step: context.step().to_owned(),
        lease_seconds: worker.lease.as_secs(),
        work,
    };
    context.say(format!("waiting for {writer} to take the work"));
    let mut is_taken = false;
    let mut handle = |report: &Report| {
        if !std::mem::replace(&mut is_taken, true) {
            context.say(format!("{writer} has taken the work"));
        }
        take(context, report, keep)
    };
    let offered = Offered {
        writer: &writer,
        order,
        grant,
        patience: Patience { lease: worker.lease, claim: worker.start },
        is_stopped: &|| context.is_stopped(),
    };
    match places.board().work(offered, &mut handle) {
        Ok(Ended::Failed(failure)) => {
            // Whether the run is undone is not for a worker to say.
            Err(Fault::Failed(leeward_runs::Failure { undo: false, ..failure }))
        }
        Ok(Ended::Stopped) => Err(Fault::passing(
            format!("{writer} has stopped the work by itself"),
            "it did not get through to the daemon for a while; the work goes on where it was",
        )),
        Ok(ended) => Ok(ended),
        Err(Gone::Fault(fault)) => Err(fault),
        Err(gone) => Err(lost(places, context, target, &writer, &gone)),
    }
}

fn take(context: &Context, report: &Report, keep: &dyn Fn(&Kept) -> Result<(), Fault>) -> Result<(), Fault> {
    for line in report.lines.iter().take(LINES_MAX) {
        context.log(line.level, &line.text);
    }
    if let Some(progress) = report.progress {
        let note: String = report.note.chars().filter(|character| !character.is_control()).take(80).collect();
        context.progress(progress.done_bytes, Some(progress.total_bytes), &note);
    }
    report.kept.as_ref().map_or(Ok(()), keep)
}

/// What a lost worker leads to: a temporary one is removed, and gone for certain, before the next attempt launches another.
fn lost(places: &dyn Places, context: &Context, target: &Target, writer: &Writer, gone: &Gone) -> Fault {
    let what = match gone {
        Gone::NotTaken => format!("{writer} did not take the work"),
        _ => format!("{writer} is not heard any more"),
    };
    context.log(Level::Warning, &what);
    if of(target).is_ok_and(|worker| worker.temporary().is_some()) {
        return match remove(places, context, target) {
            Ok(_) => Fault::passing(what, "its instance is removed; the next attempt launches another one"),
            Err(fault) => fault,
        };
    }
    Fault::passing(
        what,
        "see that it runs, has a valid token of its name and role worker, and reaches the daemon; then retry the step",
    )
}

pub(super) fn of(target: &Target) -> Result<&Arc<Worker>, Fault> {
    target.worker.as_ref().ok_or_else(|| {
        Fault::lasting(
            "the target has no worker any more",
            "retry attach_block_volume, and the steps after it",
        )
    })
}

fn random_name() -> Result<String, Fault> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Fault::passing(format!("the system gives no random bytes: {error}"), "it is tried again")
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn instances(target: &Target) -> Result<&Arc<dyn Instances>, Fault> {
    target.cloud.instances.as_ref().ok_or_else(|| {
        Fault::lasting(
            format!("{} launches no machines", target.cloud.volumes.name()),
            "name a standing worker in the target's `worker`, or leave it out",
        )
    })
}

/// All workers of this run in a target, also those that are gone; none where the provider knows no machines. What somebody
/// else has made with the tag of the run is none of them.
pub(super) fn all(context: &Context, target: &Target) -> Result<Vec<Instance>, Fault> {
    let Some(instances) = &target.cloud.instances else { return Ok(Vec::new()) };
    let owner = Owner::new(context.run_id().as_str(), STEP);
    let mut found = instances
        .instances_tagged(RUN_TAG, Some(context.run_id().as_str()))
        .map_err(|error| fault::of_cloud(&error))?;
    found.retain(|instance| owner.owns(&instance.tags));
    Ok(found)
}

fn is_gone(instance: &Instance) -> bool {
    instance.state.progress(Goal::End) == Progress::Ready
}

/// Waits until no worker of the run is on its way out: as long as one is not gone for certain, it may write.
fn wait_gone(context: &Context, target: &Target, within: Duration) -> Result<(), Fault> {
    let instances = instances(target)?;
    let end = Instant::now() + within;
    loop {
        let found = all(context, target)?;
        let Some(left) = found.iter().find(|one| !one.state.is_live() && !is_gone(one)) else {
            return Ok(());
        };
        if Instant::now() >= end {
            return Err(stays(left));
        }
        context.wait(instances.poll_interval())?;
    }
}

/// An instance that is told to go and does not.
fn stays(left: &Instance) -> Fault {
    Fault::passing(
        format!("instance {} is {} and does not go", left.id, left.state.word),
        format!("terminate instance {} in the provider's console, then try again", left.id),
    )
}

/// The run's worker: the one that is there, or one that is launched now; in `domain`, where that is settled already.
pub(super) fn instance(
    places: &dyn Places,
    context: &Context,
    target: &Target,
    domain: Option<&str>,
) -> Result<Instance, Fault> {
    let worker = of(target)?;
    let temporary = worker.temporary().ok_or_else(|| nonsense("nothing: it is none that is launched"))?;
    let instances = instances(target)?;
    wait_gone(context, target, worker.start)?;
    let found = all(context, target)?.into_iter().find(|instance| instance.state.is_live());
    let mut instance = match found {
        Some(found) if domain.is_none_or(|domain| found.domain == domain) => found,
        Some(found) => {
            remove(places, context, target)?;
            return Err(Fault::passing(
                format!("instance {} was in {}, and the volume is elsewhere", found.id, found.domain),
                "it is removed; the next attempt launches another one",
            ));
        }
        None => launch(places, context, target, temporary, domain)?,
    };
    let end = Instant::now() + worker.start;
    loop {
        match instance.state.progress(Goal::Use) {
            Progress::Ready => return Ok(instance),
            Progress::Changing if Instant::now() < end => context.wait(instances.poll_interval())?,
            // One that does not come up is as good as one that cannot.
            Progress::Changing | Progress::Broken => {
                let word = instance.state.word.clone();
                remove(places, context, target)?;
                return Err(Fault::passing(
                    format!("instance {} was {word} and is removed", instance.id),
                    "the next attempt launches another one",
                ));
            }
        }
        instance = instances.instance(&instance.id).map_err(|error| fault::of_cloud(&error))?;
    }
}

fn launch(
    places: &dyn Places,
    context: &Context,
    target: &Target,
    temporary: &Temporary,
    domain: Option<&str>,
) -> Result<Instance, Fault> {
    let instances = instances(target)?;
    let inputs = Inputs::of(context)?;
    let seen: Seen = context.needed("get_file_head")?;
    let domains = match domain {
        Some(domain) => vec![Domain { name: domain.to_owned() }],
        None => domains(context, target, &inputs, &seen)?,
    };
    let text = token::new().map_err(fault::of_place)?;
    // Kept before it is given away: an instance whose launch is not known of yet may come with it.
    places.keep_token(context.run_id().as_str(), &token::digest(&text)).map_err(fault::of_place)?;
    let user_data = script(&Script::new(temporary, context.run_id().as_str(), &text)?);
    let mut spec = spec(context, target, temporary, &inputs, &seen, UserData::new(user_data.as_str()))?;
    let mut refused = None;
    for domain in domains {
        context.check()?;
        spec.domain = domain.name;
        match instances.launch(&spec) {
            Ok(instance) => {
                context.say(format!(
                    "instance {} ({}, {}) in {}, without a public address",
                    instance.id, spec.name, spec.shape, spec.domain
                ));
                return Ok(instance);
            }
            // There may be room in another domain.
            Err(error) if error.kind() == ErrorKind::Limit => {
                context.log(Level::Warning, &format!("{}: {}", spec.domain, error));
                refused = Some(error);
            }
            Err(error) => return Err(fault::of_cloud(&error)),
        }
    }
    Err(refused
        .map_or_else(|| Fault::lasting("there is no domain", "see the target"), |it| fault::of_cloud(&it)))
}

/// The domains in which the worker may be, the first choice first: the one that is asked for, or any.
fn domains(context: &Context, target: &Target, inputs: &Inputs, seen: &Seen) -> Result<Vec<Domain>, Fault> {
    let mut domains = target.cloud.volumes.domains().map_err(|error| fault::of_cloud(&error))?;
    let number = inputs.ad_number.or(seen.wishes.ad_number).unwrap_or(0);
    let seed = context.run_id().as_str();
    let chosen = choose_domain(target.cloud.volumes.name(), &domains, number, seed)
        .map_err(|error| fault::of_cloud(&error))?
        .clone();
    if number != 0 {
        return Ok(vec![chosen]);
    }
    if let Some(at) = domains.iter().position(|domain| *domain == chosen) {
        domains.rotate_left(at);
    }
    Ok(domains)
}

fn spec(
    context: &Context,
    target: &Target,
    temporary: &Temporary,
    inputs: &Inputs,
    seen: &Seen,
    user_data: UserData,
) -> Result<InstanceSpec, Fault> {
    let wished = inputs.display_name.as_deref().or(seen.wishes.display_name.as_deref());
    let run = context.run_id().as_str();
    // The end of a run's name is what differs between two runs.
    let unique = &run[run.len().saturating_sub(6)..];
    Ok(InstanceSpec {
        name: format!("{}-{unique}", names::worker(wished.unwrap_or("import"))),
        domain: String::new(),
        shape: temporary.shape.clone(),
        cpus: temporary.cpus,
        memory_gib: temporary.memory_gib,
        image: temporary.image.clone(),
        subnet: temporary.subnet.clone(),
        user_data: Some(user_data),
        ssh_keys: temporary.ssh_keys.clone(),
        tags: target.cloud.volumes.tag_limits().fit(&metadata::tags(&seen.metadata)).tags,
        defined_tags: temporary.defined_tags.clone(),
        boot_volume_gib: temporary.boot_volume_gib,
        owner: Owner::new(run, STEP),
    })
}

/// Waits until the run's worker has asked for work since it was launched. One that does not come in its time is removed.
pub(super) fn wait(places: &dyn Places, context: &Context, target: &Target) -> Result<(), Fault> {
    let worker = of(target)?;
    let writer = worker.writer(context);
    let end = Instant::now() + worker.start;
    while places.board().seen(&writer).is_none() {
        if Instant::now() >= end {
            remove(places, context, target)?;
            return Err(Fault::passing(
                format!("no worker has asked for work within {} s", worker.start.as_secs()),
                "its instance is removed, and the next attempt launches another one; see its console: cloud-init must be able to reach the daemon at the target's `server`",
            ));
        }
        context.wait(Duration::from_millis(200))?;
    }
    Ok(())
}

/// Removes all workers of the run in a target and waits until they are gone: then none of them writes any more, and their
/// tokens are worth nothing. Returns how many there were.
pub(super) fn remove(places: &dyn Places, context: &Context, target: &Target) -> Result<usize, Fault> {
    let end_tokens = || {
        places.board().forget(&Writer::Run(context.run_id().to_string()));
        places.end_tokens(context.run_id().as_str()).map_err(fault::of_place)
    };
    let Some(instances) = &target.cloud.instances else { return end_tokens().map(|()| 0) };
    let end = Instant::now() + of(target).map_or(GO_TIME, |worker| worker.start);
    let mut removed = BTreeSet::new();
    loop {
        // One whose launch was not answered may show only now, and one that is told to go may still be told of as if it ran.
        let mut left = all(context, target)?;
        left.retain(|instance| !is_gone(instance));
        for instance in left.iter().filter(|instance| instance.state.is_live()) {
            instances.terminate(&instance.id).map_err(|error| left_behind(&instance.id, &error))?;
            if removed.insert(instance.id.clone()) {
                context.say(format!("instance {} is being removed", instance.id));
            }
        }
        // After they were told to go: one that stays because that failed would otherwise be taken for a worker, and could not work.
        end_tokens()?;
        match left.first() {
            None => return Ok(removed.len()),
            Some(left) if Instant::now() >= end => return Err(stays(left)),
            Some(_) => context.wait(instances.poll_interval())?,
        }
    }
}

fn left_behind(id: &InstanceId, error: &leeward_cloud::Error) -> Fault {
    match fault::of_cloud(error) {
        Fault::Failed(failure) => Fault::Failed(leeward_runs::Failure {
            message: format!("instance {id} is left: {}", failure.message),
            hint: format!("terminate instance {id} in the provider's console, then try again"),
            ..failure
        }),
        stopped => stopped,
    }
}
