//! `leeward hydrate`: an overlay becomes a whole disk, while a machine runs on it or not.

mod switch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use clap::Args;
use leeward_disk::nbd::{NbdDisk, NbdOptions, NbdUrl};
use leeward_disk::overlay::Overlay;
use leeward_disk::{Extent, Source, Target, WorkOptions, default_threads};
use serde_json::json;

use super::overlay::{self, Serving};
use super::repository::RepositoryArgument;
use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::limit::{self, RateLimit, limited};
use crate::output::Output;
use crate::progress::Progress;
use crate::size;

/// What is asked of an export at once.
const STEP_BYTES: u64 = 4 << 20;
/// The same where there is no data.
const ZERO_STEP_BYTES: u64 = 1 << 30;

/// Bring the whole disk of an exported snapshot to its local file, and a running machine with it
#[derive(Args)]
pub struct HydrateArguments {
    /// The overlay: the file that was given to export --cow
    path: PathBuf,
    /// URL of the export that serves it [default: what the export wrote beside it]
    #[arg(long)]
    url: Option<String>,
    /// Afterwards move the running machine with this QMP socket from the export to the local file
    #[arg(long, value_name = "SOCKET", requires = "node")]
    qmp: Option<PathBuf>,
    /// The machine's block node for the export (node-name of its -blockdev)
    #[arg(long, value_name = "NODE", requires = "qmp")]
    node: Option<String>,
    /// Fetch no faster than this: bytes per second, as in 20M
    #[arg(long, value_name = "RATE", value_parser = limit::parse_rate)]
    limit: Option<u64>,
    /// Threads that fetch [default: one per processor]
    #[arg(short = 'j', long)]
    threads: Option<usize>,
}

/// Runs the verb.
pub fn run(
    arguments: &HydrateArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let path = &arguments.path;
    let base = overlay::Base::read(path)?;
    let started = Instant::now();
    let opened = match &arguments.url {
        Some(_) => None,
        None => open(arguments, &base, repository)?,
    };
    let Some(overlay) = opened else {
        return hydrate_served(arguments, started, output);
    };
    if arguments.qmp.is_some() {
        return Err(Failure::new(
            Code::Refused,
            format!("{}: no export serves it, so no machine can run on it", path.display()),
        )
        .hint("leave out --qmp, or start the machine from: leeward export --cow"));
    }
    Serving::forget(path);
    let before = overlay.local_bytes();
    let progress = Progress::new(output, overlay.virtual_size(), format!("hydrate {}", path.display()));
    let options = WorkOptions {
        threads: arguments.threads.unwrap_or_else(default_threads),
        progress: &|bytes| progress.add(bytes),
        cancel: interrupt::flag(),
    };
    let result = overlay.hydrate(&options);
    progress.finish();
    let closed = overlay.close();
    result?;
    closed?;
    let fetched = overlay.local_bytes() - before;
    // While it is still ours: nobody opens it in between.
    Overlay::release(path)?;
    drop(overlay);
    report(path, fetched, started, None, output);
    Ok(ExitCode::SUCCESS)
}

/// The overlay, or nothing when an export has it.
fn open(
    arguments: &HydrateArguments,
    base: &overlay::Base,
    repository: &RepositoryArgument,
) -> Result<Option<Overlay>, Failure> {
    let repository = repository.open()?;
    base.check_repository(&repository, &arguments.path)?;
    let limit = arguments.limit.map(RateLimit::new);
    let source = limited(Arc::new(repository.source(base.snapshot)?), limit.as_ref());
    match Overlay::open(&arguments.path, source) {
        Err(leeward_disk::Error::OverlayInUse { .. }) => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// Has the export that serves the overlay fetch everything.
fn hydrate_served(
    arguments: &HydrateArguments,
    started: Instant,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let path = &arguments.path;
    let url = arguments.url.clone().or_else(|| Serving::read(path)).ok_or_else(|| {
        Failure::new(
            Code::Conflict,
            format!("{}: another process has it open, and no export says where it serves it", path.display()),
        )
        .hint("wait until it has ended, or name the export with --url")
    })?;
    let url = NbdUrl::parse(&url)?;
    let disk = NbdDisk::connect(&url, &NbdOptions::default())?;
    check_same(&disk, path, &url)?;
    fetch(&disk, arguments, output)?;
    disk.finish(true)?;
    let switched = match (&arguments.qmp, &arguments.node) {
        (Some(socket), Some(node)) => {
            let virtual_size = Source::virtual_size(&disk);
            // The export goes on with the map that it has open; the disk is whole without it.
            let release = || Ok(Overlay::release(path)?);
            switch::switch_over(
                &switch::Move { socket, node, url: &url, path, virtual_size },
                release,
                output,
            )?;
            Some(())
        }
        _ => None,
    };
    report(path, 0, started, Some(switched.is_some()), output);
    Ok(ExitCode::SUCCESS)
}

fn check_same(disk: &NbdDisk, path: &Path, url: &NbdUrl) -> Result<(), Failure> {
    let expected = Overlay::describe(path)?.virtual_size;
    if Source::virtual_size(disk) == expected && disk.can_cache() {
        return Ok(());
    }
    Err(Failure::new(
        Code::Refused,
        format!("{url}: this export does not serve {}: it has another size, or cannot fetch", path.display()),
    )
    .hint("name the export of the overlay with --url"))
}

/// Asks for the whole disk, in steps that several threads take one after the other.
fn fetch(disk: &NbdDisk, arguments: &HydrateArguments, output: &Output) -> Result<(), Failure> {
    let size = Source::virtual_size(disk);
    let progress = Progress::new(output, size, format!("hydrate {}", arguments.path.display()));
    let limit = arguments.limit.map(RateLimit::new);
    let position = Mutex::new(0);
    let next = || -> leeward_disk::Result<Option<Extent>> {
        let mut position = position.lock().unwrap_or_else(PoisonError::into_inner);
        if *position >= size {
            return Ok(None);
        }
        let extents = disk.extents(*position, (size - *position).min(ZERO_STEP_BYTES))?;
        let Some(mut step) = extents.into_iter().next() else { return Ok(None) };
        if step.kind.is_data() {
            step.length = step.length.min(STEP_BYTES);
        }
        *position = step.end();
        Ok(Some(step))
    };
    let work = || -> leeward_disk::Result<()> {
        while let Some(step) = next()? {
            if interrupt::is_requested() {
                return Err(leeward_disk::Error::Cancelled);
            }
            if let Some(limit) = limit.as_ref().filter(|_| step.kind.is_data()) {
                limit.wait(step.length, &interrupt::is_requested);
            }
            disk.cache(step.offset, step.length)?;
            progress.add(step.length);
        }
        Ok(())
    };
    let result = std::thread::scope(|scope| {
        let threads = arguments.threads.unwrap_or_else(default_threads).max(1);
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        others.into_iter().fold(own, |result, other| {
            result.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    });
    progress.finish();
    Ok(result?)
}

/// `served` says, where an export has the overlay, whether a machine was moved off it.
fn report(path: &Path, fetched: u64, started: Instant, served: Option<bool>, output: &Output) {
    if output.is_json() {
        output.json_line(&json!({
            "disk": path,
            "complete": true,
            "fetched_bytes": served.is_none().then_some(fetched),
            "switched": served == Some(true),
            "overlay": served == Some(false),
            "seconds": started.elapsed().as_secs_f64(),
        }));
    }
    let time = size::show_time(started.elapsed());
    let path = path.display();
    output.line(match served {
        None => format!("{path} is whole after {time} ({} fetched): it is an ordinary raw disk now", size::show(fetched)),
        Some(true) => format!(
            "{path} is whole after {time}: it is an ordinary raw disk now, and the machine runs on it. The export may end."
        ),
        Some(false) => format!(
            "{path} is whole after {time}. When its export has ended, run `leeward hydrate {path}` again to make it an ordinary raw disk."
        ),
    });
}
