//! The site itself.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use leeward_import::job::{ExportKind, ImportKind, Inputs, Origin, Places, RestoreKind, Verdict, plan};
use leeward_import::work::Board;
use leeward_protect::job::{Ground, Opening};
use leeward_remote::objects::ListPage;
use leeward_repository::Repository;
use leeward_runs::engine::{Engine, EngineOptions, Runs};
use leeward_runs::state::{Inserted, PostgresState, SqliteState, State};
use leeward_runs::{Run, RunId};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::browse::Browser;
use crate::catalog::{Catalog, Hint, Lead, NewHint, lead};
use crate::config::Place;
use crate::ground::SiteGround;
use crate::images::Figures;
use crate::notify::{self, Notifier};
use crate::places::SitePlaces;
use crate::schedule::Scheduler;
use crate::state::{StateKind, check_state};
use crate::sweep::{self, LastLook};
use crate::{Config, Error, Result, event, intake, schedule, trouble, work};

/// How often ended runs are looked through for such as may be forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// Opens the site's repository; in words what went wrong.
pub type OpenRepository = Box<dyn Fn(&Opening) -> Result<Repository, String> + Send + Sync>;

/// What a person or an event asks to be imported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImportRequest {
    /// Name of the source.
    pub source: String,
    /// The object.
    pub object: String,
    /// Name of the target; the source's own where absent.
    pub target: Option<String>,
    /// The version that is meant.
    pub version: Option<String>,
    /// Whether each step waits until it is released by name, for runs that somebody else conducts.
    pub gated: bool,
    /// What the object's metadata would otherwise say.
    pub options: ImportOptions,
}

/// What may be asked of an import beside what and where to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImportOptions {
    /// Availability domain, counted from 1; 0 is any.
    pub ad_number: Option<u32>,
    /// What the volume is called.
    pub volume_name: Option<String>,
    /// What the worker is called.
    pub display_name: Option<String>,
    /// The provider's backup policy; empty for none.
    pub backup_policy: Option<String>,
    /// Performance once the import is done.
    pub vpus_per_gb: Option<u32>,
    /// The provider's key.
    pub kms_key: Option<String>,
    /// What errors in a file system lead to.
    pub filesystem_errors: Option<Verdict>,
    /// Whether the backup of a GPT is moved.
    pub move_gpt: Option<bool>,
}

/// Wakes whoever waits for hints.
#[derive(Default)]
pub(crate) struct Bell(Mutex<bool>, Condvar);

impl Bell {
    pub fn ring(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.1.notify_all();
    }

    pub fn wait(&self, most: Duration) {
        let rung = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rung, _) =
            self.1.wait_timeout_while(rung, most, |rung| !*rung).unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

pub(crate) struct Inner {
    pub config: Config,
    pub places: Arc<dyn Places>,
    pub catalog: Arc<Catalog>,
    pub board: Arc<Board>,
    pub runs: Runs,
    pub scheduler: Scheduler,
    pub notifier: Arc<Notifier>,
    pub last_look: LastLook,
    pub lead: Lead,
    pub hints: Bell,
    pub open_repository: Option<Arc<OpenRepository>>,
    pub repository: Mutex<Option<(Instant, Arc<Repository>)>>,
    pub figures: Figures,
    pub browser: Browser,
}

/// One configured site. Dropping it ends it as [`Site::stop`] does.
pub struct Site {
    inner: Arc<Inner>,
    engine: Option<Engine>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    // Dropped last: another daemon may begin only when this one's engine has ended.
    _alone: File,
}

impl Site {
    /// Opens a site and begins to work: its runs go on where they were.
    ///
    /// # Errors
    /// The state cannot be opened, or the operating system gives no threads.
    pub fn start(config: Config, owner: &str, open_repository: Option<OpenRepository>) -> Result<Self> {
        let place = config.state.display().to_string();
        make_private(&config.state).map_err(Error::io(&place, "make the directory of the daemon's state"))?;
        let alone = be_alone(&config.state)?;
        check_state(&config)?;
        let (state, catalog) = databases(&config)?;
        let (owner, catalog) = (daemon_name(owner, &catalog)?, Arc::new(catalog));
        let notifier = Arc::new(Notifier::new(&config, Arc::clone(&catalog)));
        notifier.begin(state.as_ref())?;
        let board: Arc<Board> = Arc::default();
        let open_repository = open_repository.map(Arc::new);
        let places: Arc<dyn Places> =
            Arc::new(SitePlaces::new(&config, &board, &catalog, open_repository.clone()));
        let options = EngineOptions {
            lease: Duration::from_secs(config.runs.lease_seconds),
            steps: config.runs.steps,
            pools: config.pools().into_iter().chain(schedule::pools(&config)).collect(),
            ..EngineOptions::new(&owner)
        };
        let ground: Arc<dyn Ground> = Arc::new(SiteGround::new(&config, open_repository.clone()));
        let mut kinds: Vec<Arc<dyn leeward_runs::step::Kind>> = vec![
            Arc::new(ImportKind::new(&places)),
            Arc::new(RestoreKind::new(&places)),
            Arc::new(ExportKind::new(&places)),
        ];
        kinds.extend(leeward_protect::job::kinds(&ground));
        kinds.push(Arc::new(StateKind::new(&config, &ground)));
        let engine =
            Engine::start(state, kinds, options).map_err(Error::io(&place, "start the threads of"))?;
        let told = Arc::clone(&notifier);
        let scheduler = Scheduler::new(&config, engine.runs().clone(), Arc::clone(&catalog), told)?;
        let inner = Arc::new(Inner {
            runs: engine.runs().clone(),
            scheduler,
            notifier,
            last_look: LastLook::default(),
            lead: Lead::new(owner),
            config,
            places,
            catalog,
            board,
            hints: Bell::default(),
            open_repository,
            repository: Mutex::default(),
            figures: Figures::default(),
            browser: Browser::default(),
        });
        let mut site =
            Self { inner, engine: Some(engine), stop: Arc::default(), threads: Vec::new(), _alone: alone };
        site.spawn("lead", |inner, stop| lead::work(inner, stop))?;
        site.spawn("intake", intake::work)?;
        site.spawn("history", forget)?;
        site.spawn("troubles", trouble::work)?;
        site.spawn("schedules", schedule::work)?;
        site.spawn("notices", notify::decide)?;
        site.spawn("sweeper", sweep::work)?;
        let receivers: Vec<_> = site.inner.notifier.receivers.values().cloned().collect();
        for receiver in receivers {
            site.spawn("notify", move |inner, stop| notify::deliver(inner, &receiver, stop))?;
        }
        site.spawn("workers", work::sweep)?;
        Ok(site)
    }

    fn spawn(&mut self, name: &str, work: impl Fn(&Arc<Inner>, &AtomicBool) + Send + 'static) -> Result<()> {
        let (inner, stop) = (Arc::clone(&self.inner), Arc::clone(&self.stop));
        let place = self.inner.config.state.display().to_string();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(&inner, &stop))
            .map_err(Error::io(&place, "start the threads of"))?;
        self.threads.push(thread);
        Ok(())
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Ends the site: steps are told to stop and go on when it is started again.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.inner.hints.ring();
        if let Some(engine) = self.engine.take() {
            engine.stop();
        }
        for thread in self.threads.drain(..) {
            // A panic there was reported by the thread.
            let _ = thread.join();
        }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Its runs.
    #[must_use]
    pub fn runs(&self) -> &Runs {
        &self.inner.runs
    }

    /// Begins an import; returns the run, and whether it is new. `by` says who asked; under the same `unique` key it is begun
    /// once only.
    ///
    /// # Errors
    /// There is no such source or target, the name is none, or the state fails.
    pub fn import(&self, request: &ImportRequest, by: &str, unique: Option<&str>) -> Result<(RunId, bool)> {
        self.inner.import(request, by, unique)
    }

    /// Hears an event of a source; returns how many of its objects the event was about. They are kept when this returns, and so
    /// are those of its bucket that are not under its location, with why nothing comes of them.
    ///
    /// # Errors
    /// There is no such source, it takes no events, the event makes no sense, or the catalog fails.
    pub fn hear(&self, source: &str, message: &serde_json::Value) -> Result<usize> {
        let configured = self.source_of(source)?;
        if !configured.watch.takes_events() {
            return Err(Error::Invalid(format!(
                "source {source} takes no events: its `watch` says otherwise"
            )));
        }
        let (catalog, now) = (&self.inner.catalog, Timestamp::now());
        let mut heard = 0;
        for told in event::parse(message).map_err(Error::Invalid)? {
            let place = configured.place_of(&told.bucket, &told.object);
            let object = if let Place::Inside(name) = place { name } else { &told.object };
            let hint = NewHint {
                source: source.to_owned(),
                object: object.to_owned(),
                version: told.version.clone(),
                cause: "event".to_owned(),
            };
            match place {
                Place::Elsewhere => continue,
                Place::Outside => catalog.ignore(&hint, "it is not under the source's location", now)?,
                Place::Inside(_) => {
                    catalog.hear(&hint, now)?;
                    heard += 1;
                }
            }
        }
        self.inner.hints.ring();
        Ok(heard)
    }

    /// What was heard of late, newest first.
    ///
    /// # Errors
    /// The catalog fails.
    pub fn hints(&self, before: Option<u64>, most: u32) -> Result<Vec<Hint>> {
        self.inner.catalog.hints(before, most)
    }

    /// A page of the objects of a source.
    ///
    /// # Errors
    /// There is no such source, or it does not answer.
    pub fn objects(&self, source: &str, prefix: &str, after: Option<&str>) -> Result<ListPage> {
        let configured = self.source_of(source)?;
        let prefix = format!("{}{prefix}", configured.prefix);
        let objects = self.inner.places.source(source).map_err(Error::Other)?;
        Ok(objects.list(&prefix, after)?)
    }

    fn source_of(&self, name: &str) -> Result<&crate::config::Source> {
        let found = self.inner.config.sources.get(name);
        found.ok_or_else(|| Error::NotFound(format!("this site has no source {name}")))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where runs are, and the catalog: in files of this daemon's own, or in the database that it shares with others.
fn databases(config: &Config) -> Result<(Arc<dyn State>, Catalog)> {
    if let Some(database) = &config.database {
        let options = database.options()?;
        let catalog = Catalog::open_shared(&options)?;
        return Ok((Arc::new(PostgresState::open(&options)?), catalog));
    }
    let state = SqliteState::open(&config.runs_file())?;
    state.end_leases()?;
    Ok((Arc::new(state), Catalog::open(&config.catalog_file())?))
}

/// What the daemon is called among those that share a database: containers may all have the same host name and process
/// number.
fn daemon_name(owner: &str, catalog: &Catalog) -> Result<String> {
    if !catalog.is_shared() {
        return Ok(owner.to_owned());
    }
    let mut random = [0; 4];
    aws_lc_rs::rand::fill(&mut random)
        .map_err(|_| Error::Other("the system gives no random bytes".to_owned()))?;
    Ok(format!("{owner}:{:08x}", u32::from_be_bytes(random)))
}

/// Holds the state for this process alone; the kernel lets go of it however the process ends.
pub(crate) fn be_alone(directory: &Path) -> Result<File> {
    let path = directory.join("daemon.lock");
    let place = path.display().to_string();
    let open = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = open.map_err(Error::io(&place, "open the lock of the daemon's state"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(Error::Config {
            place,
            what: "another daemon has this state; stop it first, or give this one another `state`".to_owned(),
        }),
        Err(error) => Err(Error::io(&place, "lock the daemon's state")(error.into())),
    }
}

fn make_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn forget(site: &Arc<Inner>, stop: &AtomicBool) {
    let mut done: Option<Instant> = None;
    while !stop.load(Ordering::Acquire) {
        if done.is_none_or(|done| done.elapsed() > FORGET_EVERY) && site.leads() {
            done = Some(Instant::now());
            let days = i64::from(site.config.runs.keep_days);
            let before = Timestamp::now() - SignedDuration::from_hours(24 * days);
            let forgotten = site.runs.state().forget_ended_before(before).map_err(Error::from);
            let receivers: Vec<_> = site.notifier.receivers.keys().map(String::as_str).collect();
            let forgotten = forgotten
                .and_then(|_| site.catalog.forget_before(before))
                .and_then(|()| site.catalog.forget_deliveries(&receivers, before, Timestamp::now()));
            if let Err(error) = forgotten {
                site.complain(&format!("what is old cannot be forgotten: {error}"));
            }
        }
        site.browser.close_idle();
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What a request says, as an import takes it.
///
/// # Errors
/// There is no such source or target, or the object's name is none.
pub(crate) fn import_inputs(config: &Config, request: &ImportRequest) -> Result<Inputs> {
    let source = config
        .sources
        .get(&request.source)
        .ok_or_else(|| Error::NotFound(format!("this site has no source {}", request.source)))?;
    let target = request.target.clone().or(source.target.clone()).ok_or_else(|| {
        Error::Invalid(format!("source {} has no target of its own: name one", request.source))
    })?;
    if !config.targets.contains_key(&target) {
        return Err(Error::NotFound(format!("this site has no target {target}")));
    }
    leeward_remote::objects::check_name(&request.source, &request.object)
        .map_err(|error| Error::Invalid(error.to_string()))?;
    let options = request.options.clone();
    Ok(Inputs {
        origin: Origin::Object,
        source: request.source.clone(),
        object: request.object.clone(),
        target,
        version: request.version.clone(),
        ad_number: options.ad_number,
        volume_name: options.volume_name,
        display_name: options.display_name,
        backup_policy: options.backup_policy,
        vpus_per_gb: options.vpus_per_gb,
        kms_key: options.kms_key,
        filesystem_errors: options.filesystem_errors,
        move_gpt: options.move_gpt,
    })
}

impl Inner {
    pub fn import(&self, request: &ImportRequest, by: &str, unique: Option<&str>) -> Result<(RunId, bool)> {
        let inputs = import_inputs(&self.config, request)?;
        self.begin(&inputs, request.gated, by, unique)
    }

    fn begin(&self, inputs: &Inputs, gated: bool, by: &str, unique: Option<&str>) -> Result<(RunId, bool)> {
        let now = self.runs.state().now()?;
        let id = RunId::new(now).map_err(leeward_runs::Error::Random)?;
        let value = serde_json::to_value(inputs).map_err(|error| Error::Other(error.to_string()))?;
        let run = Run { gated, ..Run::new(id.clone(), &inputs.object, plan(inputs), value, by, now) };
        Ok(match self.runs.begin(&run, unique)? {
            Inserted::New => (id, true),
            Inserted::Exists(found) => (found, false),
        })
    }

    /// Whether this daemon does what only one is to do, of those that share a database.
    pub fn leads(&self) -> bool {
        self.lead.is_held(&self.catalog)
    }

    /// A line for who operates the daemon.
    pub fn complain(&self, line: &str) {
        eprintln!("leeward: {line}");
    }
}
