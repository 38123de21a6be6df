//! A daemon's state out of its repository.
//!
//! The new state is built beside the place where it belongs, and looked at as a whole, before anything is moved. What is
//! there is moved aside, never deleted.
//!
//! Runs that were under way when the copy was made may have gone on after it. Nobody knows how far: where such a run makes
//! things that are elsewhere, it waits for a person, who looks at them first.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use leeward_disk::Source;
use leeward_protect::job::STATE_IMAGES;
use leeward_repository::{ImageName, Repository, SnapshotSpec};
use leeward_runs::state::{Filter, Replaced, SqliteState, State};
use leeward_runs::step::Fault;
use leeward_runs::{Event, Failure, Run, RunId, RunState, StepState, apply};
use rusqlite::Connection;
use serde::Serialize;

use super::{ABOUT, About, CATALOG, CONFIG, FORMAT, RUNS, TOKENS};
use crate::catalog::Catalog;
use crate::site::be_alone;
use crate::{Error, Result};

/// The largest of the small files, in bytes.
const SMALL_BYTES_MAX: u64 = 16 << 20;

/// What is to be restored.
#[derive(Debug, Clone)]
pub struct Restoring {
    /// The site, where the repository has the state of several.
    pub site: Option<String>,
    /// Which of its copies: `latest`, `~1`, the beginning of a digest, a time.
    pub at: String,
    /// The daemon's state directory.
    pub directory: PathBuf,
    /// Whether nothing is to be changed.
    pub dry_run: bool,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The image.
    pub image: ImageName,
    /// The snapshot.
    pub snapshot: String,
    /// What the copy says of itself.
    #[serde(flatten)]
    pub about: About,
    /// Where it is now, or would be.
    pub directory: PathBuf,
    /// Where the state that was there is now, or would be.
    pub kept: Option<PathBuf>,
    /// Runs in all.
    pub runs: u64,
    /// Runs that were under way, and wait for a person now.
    pub held: Vec<RunId>,
}

/// Restores the state of a site's daemon.
///
/// # Errors
/// There is no such copy, it is of a newer release or damaged, a daemon has the directory, or that is no daemon's. The
/// directory is then as it was.
pub fn restore(repository: &Repository, restoring: &Restoring) -> Result<Restored> {
    let image = find(repository, restoring.site.as_deref())?;
    let spec: SnapshotSpec = match restoring.at.as_str() {
        "" | "latest" => image.as_str().parse(),
        at => format!("{image}@{}", at.strip_prefix('@').unwrap_or(at)).parse(),
    }
    .map_err(Error::Repository)?;
    let snapshot = repository.resolve(&spec)?.id;
    let present = Present::look(&restoring.directory)?;
    let made = Made::beside(&restoring.directory)?;
    unpack(&repository.source(snapshot)?, &made.path)?;
    let about = examine(&made.path)?;
    let (runs, held) = settle(&made.path, &about)?;
    let kept = present.aside(&restoring.directory);
    let restored = Restored {
        image,
        snapshot: snapshot.to_string(),
        about,
        directory: restoring.directory.clone(),
        kept,
        runs,
        held,
    };
    if !restoring.dry_run {
        made.put(&restoring.directory, restored.kept.as_deref())?;
    }
    Ok(restored)
}

fn find(repository: &Repository, site: Option<&str>) -> Result<ImageName> {
    let images = repository.images()?;
    let mut found = images.into_iter().filter(|image| {
        let of = image.as_str().strip_prefix(STATE_IMAGES);
        of.is_some_and(|of| site.is_none_or(|site| site == of))
    });
    let first = found.next().ok_or_else(|| match site {
        Some(site) => Error::NotFound(format!("the repository has no state of a site {site}")),
        None => Error::NotFound("the repository has no state of a site".to_owned()),
    })?;
    match found.next() {
        None => Ok(first),
        Some(other) => Err(Error::Invalid(format!(
            "the repository has the state of several sites, as {first} and {other}: name one with --site-name"
        ))),
    }
}

/// What is at the place of the state.
struct Present {
    is_there: bool,
    /// Held so that no daemon begins to work on it meanwhile.
    _alone: Option<File>,
}

impl Present {
    fn look(directory: &Path) -> Result<Self> {
        let place = directory.display().to_string();
        let mut names = Vec::new();
        match fs::read_dir(directory) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry.map_err(Error::io(&place, "list the directory"))?;
                    names.push(entry.file_name());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { is_there: false, _alone: None });
            }
            Err(error) => return Err(Error::io(&place, "list the directory")(error)),
        }
        let is_state =
            [RUNS, CATALOG, TOKENS, "daemon.lock"].iter().any(|name| names.iter().any(|is| is == name));
        match (names.is_empty(), is_state) {
            (true, _) => Ok(Self { is_there: false, _alone: None }),
            (false, true) => Ok(Self { is_there: true, _alone: Some(be_alone(directory)?) }),
            (false, false) => Err(Error::Config {
                place,
                what: "there is something that is no daemon's state; name the directory that `state` in the \
                       configuration names, or one that is not there"
                    .to_owned(),
            }),
        }
    }

    /// Where it goes.
    fn aside(&self, directory: &Path) -> Option<PathBuf> {
        let name = directory.file_name().filter(|_| self.is_there)?.to_string_lossy().into_owned();
        let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let paths = (0_u32..).map(|number| match number {
            0 => directory.with_file_name(format!("{name}.before-{now}")),
            number => directory.with_file_name(format!("{name}.before-{now}-{number}")),
        });
        paths.into_iter().find(|path| !path.exists())
    }
}

/// The new state, in a directory of its own until it is put where it belongs.
struct Made {
    path: PathBuf,
    is_put: bool,
}

impl Made {
    fn beside(directory: &Path) -> Result<Self> {
        let place = directory.display().to_string();
        let name = directory.file_name().ok_or_else(|| Error::Config {
            place: place.clone(),
            what: "that is no name of a directory".to_owned(),
        })?;
        let path =
            directory.with_file_name(format!("{}.restoring-{}", name.to_string_lossy(), std::process::id()));
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let make = fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
            make.map_err(Error::io(&place, "make the directory above it"))?;
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(Error::io(&path.display().to_string(), "make a directory for the new state"))?;
        Ok(Self { path, is_put: false })
    }

    /// Puts it where it belongs. A crash between the two renames leaves both directories beside the place, under names that
    /// say what they are.
    fn put(mut self, directory: &Path, kept: Option<&Path>) -> Result<()> {
        let place = directory.display().to_string();
        let sync = |path: &Path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            File::open(path).and_then(|file| file.sync_all())
        };
        for entry in fs::read_dir(&self.path).map_err(Error::io(&place, "list the new state"))? {
            let entry = entry.map_err(Error::io(&place, "list the new state"))?;
            sync(&entry.path()).map_err(Error::io(&place, "write the new state to disk"))?;
        }
        sync(&self.path).map_err(Error::io(&place, "write the new state to disk"))?;
        if let Some(kept) = kept {
            fs::rename(directory, kept).map_err(Error::io(&place, "move the present state aside"))?;
        }
        if let Err(error) = fs::rename(&self.path, directory) {
            if let Some(kept) = kept {
                // Where it cannot go back either, it stays under the name that was told.
                let _ = fs::rename(kept, directory);
            }
            return Err(Error::io(&place, "put the new state in its place")(error));
        }
        self.is_put = true;
        sync(directory.parent().unwrap_or(Path::new("."))).map_err(Error::io(&place, "write it to disk"))
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.is_put {
            // It was not asked for, or could not be finished; what stays has a name that says so.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The bytes of a disk, one after the other.
struct Bytes<'a> {
    disk: &'a dyn Source,
    position: u64,
}

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.disk.virtual_size() - self.position;
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if count > 0 {
            self.disk.read_at(&mut buffer[..count], self.position).map_err(std::io::Error::other)?;
            self.position += count as u64;
        }
        Ok(count)
    }
}

/// Takes the files that a state has out of the archive, and nothing else.
fn unpack(disk: &dyn Source, to: &Path) -> Result<()> {
    let place = to.display().to_string();
    let unreadable = |error: std::io::Error| Error::Config {
        place: "the copy".to_owned(),
        what: format!("it is no archive of a daemon's state: {error}"),
    };
    let mut archive =
        tar::Archive::new(std::io::BufReader::with_capacity(1 << 20, Bytes { disk, position: 0 }));
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?.into_owned();
        let name = path.strip_prefix("./").unwrap_or(&path).to_string_lossy().into_owned();
        let Some(known) = [ABOUT, CONFIG, TOKENS, CATALOG, RUNS].into_iter().find(|known| *known == name)
        else {
            continue;
        };
        let is_small = !matches!(known, CATALOG | RUNS);
        if is_small && entry.size() > SMALL_BYTES_MAX {
            return Err(unreadable(std::io::Error::other(format!("{known} has {} bytes", entry.size()))));
        }
        let open = File::options().write(true).create_new(true).mode(0o600).open(to.join(known));
        let mut file = open.map_err(Error::io(&place, "make a file of the new state"))?;
        std::io::copy(&mut entry, &mut file).map_err(Error::io(&place, "write the new state"))?;
        file.flush().map_err(Error::io(&place, "write the new state"))?;
    }
    Ok(())
}

/// Whether it is a state that this release can work on.
fn examine(path: &Path) -> Result<About> {
    let unfit = |what: String| Error::Unfit { what };
    let text = fs::read(path.join(ABOUT)).map_err(|error| unfit(format!("it has no {ABOUT}: {error}")))?;
    let version = |text: &[u8]| {
        let value: serde_json::Value = serde_json::from_slice(text).ok()?;
        Some((
            value.get("format")?.as_u64()?,
            value.get("tool").and_then(|tool| tool.as_str()).map(str::to_owned),
        ))
    };
    match version(&text) {
        Some((format, _)) if format == u64::from(FORMAT) => {}
        Some((format, tool)) => {
            let tool = tool.unwrap_or_else(|| "another release".to_owned());
            return Err(unfit(format!(
                "it is of format {format}, written by {tool}; this release reads {FORMAT}"
            )));
        }
        None => return Err(unfit(format!("its {ABOUT} makes no sense"))),
    }
    let about = serde_json::from_slice(&text)
        .map_err(|error| unfit(format!("its {ABOUT} makes no sense: {error}")))?;
    for name in [CATALOG, RUNS] {
        let file = path.join(name);
        if !file.exists() {
            return Err(unfit(format!("it has no {name}")));
        }
        let looked = Connection::open(&file).and_then(|connection| {
            connection.busy_timeout(Duration::from_secs(30))?;
            connection.pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0))
        });
        match looked {
            Ok(verdict) if verdict == "ok" => {}
            Ok(verdict) => return Err(unfit(format!("{name} is damaged: {verdict}"))),
            Err(error) => return Err(unfit(format!("{name} is damaged: {error}"))),
        }
    }
    // Opening brings an older schema up to date, and refuses a newer one.
    let newer = |error: Error| unfit(error.to_string());
    Catalog::open(&path.join(CATALOG)).map_err(newer)?;
    SqliteState::open(&path.join(RUNS)).map_err(|error| unfit(error.to_string()))?;
    Ok(about)
}

/// Has runs wait that may have gone on after the copy; returns how many runs there are, and these.
fn settle(path: &Path, about: &About) -> Result<(u64, Vec<RunId>)> {
    let state = SqliteState::open(&path.join(RUNS))?;
    let count = state.counts()?.into_iter().map(|(_, _, count)| count).sum();
    let states = vec![RunState::Queued, RunState::Running];
    let mut filter = Filter { states, most: 1000, ..Filter::default() };
    let mut held = Vec::new();
    loop {
        let page = state.list(&filter)?;
        for found in &page.runs {
            let Some((run, _)) = state.load(&found.id)? else { continue };
            // What leaves nothing elsewhere is simply done again.
            if run.plan.steps.iter().any(|step| step.has_undo) {
                hold(&state, run, about)?;
                held.push(found.id.clone());
            }
        }
        match page.next {
            Some(next) => filter.past = Some(next),
            None => return Ok((count, held)),
        }
    }
}

fn hold(state: &SqliteState, mut run: Run, about: &About) -> Result<()> {
    let failure = unknown(about)?;
    let mut at: Vec<String> = run
        .steps
        .iter()
        .filter(|step| matches!(step.state, StepState::Running | StepState::Waiting))
        .map(|step| step.name.clone())
        .collect();
    if at.is_empty() {
        // Nothing of it was under way: what would have come next may have been done since.
        let order = run.plan.in_order();
        let next =
            order.into_iter().find(|index| !run.steps.get(*index).is_some_and(|step| step.state.is_done()));
        at.extend(next.map(|index| run.plan.steps[index].name.clone()));
    }
    let reason = Some(failure.message.clone());
    let mut events: Vec<Event> =
        at.into_iter().map(|step| Event::Failed { step, failure: failure.clone() }).collect();
    events.push(Event::Moved { state: RunState::Held, reason });
    let now = state.now()?;
    let sequence = run.sequence;
    events.iter().for_each(|event| apply(&mut run, event, now));
    match state.replace(&run, sequence, None, &events)? {
        Replaced::Done => Ok(()),
        _ => Err(Error::Other(format!("run {} of the new state cannot be changed", run.id))),
    }
}

fn unknown(about: &About) -> Result<Failure> {
    let fault = Fault::lasting(
        format!(
            "it was under way when the state was copied ({}); what it did after that is not known",
            about.copied
        ),
        "look at what it has made since, then retry it, or have it undone",
    );
    match fault {
        Fault::Failed(failure) => Ok(failure),
        Fault::Stopped => Err(Error::Other("a failure is none".to_owned())),
    }
}
