//! The steps, in order.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leeward_disk::nbd::{Export, Listen, ReadOnly, Server, ServerOptions};
use leeward_disk::{
    CreateOptions, Format, OpenOptions, References, SharedSource, WorkOptions, create_target,
    default_threads, open_source, walk_extents,
};
use leeward_repository::{
    Repository, RestoreMode, Snapshot, SnapshotId, SnapshotSpec, SourceRecord, host_name,
};

use super::QuickstartArguments;
use super::boot::{self, Boot, Wish, boot};
use super::change::{Change, change_given, rewrite};
use super::digest::digest;
use super::generate::{Generated, generate};
use super::partitions::layout;
use super::report::{AtOnce, Backup, Copy, Disk, Recovery, Report};
use super::sites::{IMAGE, Site, SiteKey};
use super::tools::io;
use super::workspace::Workspace;
use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::Output;
use crate::progress::Progress;
use crate::size;
use crate::verb::repository::{Watch, open_with};

/// Space for two indexes, an overlay and the like.
const SLACK_BYTES: u64 = 256 << 20;
const SEED: u64 = 20_261_121;

/// What the steps have in common.
struct Story<'a> {
    arguments: &'a QuickstartArguments,
    workspace: &'a Workspace,
    output: &'a Output,
    /// Opens both repositories.
    key: SiteKey,
}

/// The disk that is at work: a generated one, or a copy of the person's.
struct Work {
    /// What is backed up first.
    source: SharedSource,
    /// The raw file that changes; for a given disk it is made by the change.
    path: PathBuf,
    generated: Option<Generated>,
    disk: Disk,
    digest: blake3::Hash,
}

/// Goes through all steps.
pub fn tell(
    arguments: &QuickstartArguments,
    workspace: &Workspace,
    output: &Output,
) -> Result<Report, Failure> {
    let started = Instant::now();
    let key = SiteKey::new(workspace)?;
    let story = Story { arguments, workspace, output, key };
    let (east, west) = story.sites()?;
    let mut work = story.disk()?;
    let first = story.first_backup(&work, &east)?;
    let change = story.change(&work, first.statistics.data_bytes)?;
    let (second, created, before) = story.second_backup(&work, &east)?;
    let held = east.repository.statistics()?.total;
    let copy = story.copy(&east, &west)?;
    let point = jiff::Timestamp::now().duration_since(created).as_secs_f64();
    let disaster = story.disaster(&work, east)?;
    let at_once = story.start_at_once(disaster)?;
    let (mut recovery, recovered) = story.recover(before, disaster, point)?;
    let boot = story.boot(&recovered)?;
    if boot.result == boot::Result::Booted {
        recovery.recovery_time_booted_seconds = Some(disaster.elapsed().as_secs_f64());
    }
    story.look_again(&mut work)?;
    Ok(Report {
        disk: work.disk,
        backups: vec![first, second],
        change,
        repository: held,
        copy,
        at_once,
        recovery,
        boot,
        kept: arguments.keep.then(|| workspace.path().to_owned()),
        seconds: started.elapsed().as_secs_f64(),
    })
}

impl Story<'_> {
    fn heading(&self, number: u8, text: &str) {
        let space = if number == 1 { "" } else { "\n" };
        self.output.line(format!("{space}{number}. {text}"));
    }

    fn result(&self, text: impl AsRef<str>) {
        self.output.line(format!("   {}", text.as_ref()));
    }

    fn sites(&self) -> Result<(Site, Site), Failure> {
        self.heading(1, "Two sites, east and west, each with an encrypted repository");
        let east = Site::first("east", self.workspace, &self.key)?;
        let west = east.alike("west", self.workspace, &self.key)?;
        let sites = (east, west);
        let end = if self.arguments.keep { "kept at the end" } else { "removed at the end" };
        self.result(format!(
            "in {}, {end}; {} free",
            self.workspace.path().display(),
            size::show(self.workspace.free_bytes)
        ));
        Ok(sites)
    }

    fn disk(&self) -> Result<Work, Failure> {
        match &self.arguments.disk {
            Some(disk) => self.given(disk),
            None => self.generated(),
        }
    }

    fn given(&self, location: &str) -> Result<Work, Failure> {
        self.heading(2, &format!("Your disk, {location}, which is only read"));
        let source = self.open_given(location)?;
        let mut data = 0;
        walk_extents::<leeward_disk::Error>(source.as_ref(), 0, source.virtual_size(), |extent| {
            data += if extent.kind.is_data() { extent.length } else { 0 };
            Ok(())
        })?;
        // A copy that changes, and a repository at each site; the recovered disk comes when the first site is gone.
        self.workspace.require(data / 10 * 33 + SLACK_BYTES)?;
        self.work(source, location.to_owned(), None)
    }

    fn open_given(&self, location: &str) -> Result<SharedSource, Failure> {
        let references =
            self.arguments.allow_references.clone().map_or(References::Refuse, References::Within);
        let options = OpenOptions { format: self.arguments.format, references, ..OpenOptions::default() };
        Ok(open_source(location, &options)?)
    }

    fn generated(&self) -> Result<Work, Failure> {
        self.heading(2, "A disk, made of files of this machine");
        let arguments = self.arguments;
        let free = self.workspace.free_bytes;
        let progress = Progress::new(self.output, 0, "");
        let note = |text: &str| progress.note(text);
        let wanted = arguments.file_system;
        let generated = generate(self.workspace.path(), arguments.size, wanted, free, &note)?;
        progress.finish();
        let files = format!("{} files, {}", generated.files, size::show(generated.file_bytes));
        self.result(format!("{files}: {}", generated.how));
        let location = generated.path.display().to_string();
        let source = open_raw(&location)?;
        self.work(source, location, Some(generated))
    }

    fn work(
        &self,
        source: SharedSource,
        location: String,
        generated: Option<Generated>,
    ) -> Result<Work, Failure> {
        let info = source.info();
        let started = Instant::now();
        let digest = digest(source.as_ref(), "read the disk", self.output)?;
        self.result(format!(
            "{} ({}), BLAKE3 of all bytes {}… in {}",
            size::show(info.virtual_size),
            info.format,
            short(&digest),
            size::show_time(started.elapsed())
        ));
        let path = match &generated {
            Some(generated) => generated.path.clone(),
            None => self.workspace.join("disk.raw"),
        };
        let disk = Disk {
            is_given: generated.is_none(),
            location,
            format: info.format.to_string(),
            made: generated.as_ref().map(|generated| generated.how.clone()),
            files: generated.as_ref().map(|generated| generated.files),
            virtual_size: info.virtual_size,
            blake3: digest.to_string(),
            is_unchanged: None,
        };
        Ok(Work { source, path, generated, disk, digest })
    }

    fn first_backup(&self, work: &Work, east: &Site) -> Result<Backup, Failure> {
        self.heading(3, "The first backup, at east");
        let record = record(&work.disk.location, &work.disk.format);
        let (outcome, time) = east.backup(work.source.as_ref(), record, "first backup", self.output)?;
        self.backed_up(&outcome.snapshot, time);
        Ok(backup(outcome.id.to_string(), &outcome.snapshot, time))
    }

    fn change(&self, work: &Work, data_bytes: u64) -> Result<Change, Failure> {
        self.heading(4, "A day passes: the disk changes, and is backed up again");
        let change = match &work.generated {
            Some(generated) => rewrite(&work.path, &generated.regions, data_bytes, SEED)?,
            None => {
                self.copy_given(work)?;
                change_given(&work.path, data_bytes, self.workspace.path(), SEED)?
            }
        };
        let whose = if work.disk.is_given { "in a copy of the disk: " } else { "" };
        self.result(format!("{whose}{}", change.what));
        Ok(change)
    }

    fn copy_given(&self, work: &Work) -> Result<(), Failure> {
        let size = work.source.virtual_size();
        let options = CreateOptions { format: Some(Format::Raw), ..CreateOptions::default() };
        let target = create_target(&work.path.display().to_string(), size, &options)?;
        let progress = Progress::new(self.output, size, "copy the disk");
        let options = WorkOptions {
            threads: default_threads(),
            progress: &|bytes| progress.add(bytes),
            cancel: interrupt::flag(),
        };
        leeward_disk::copy(work.source.as_ref(), target.as_ref(), &options)?;
        Ok(target.finish(false)?)
    }

    fn second_backup(
        &self,
        work: &Work,
        east: &Site,
    ) -> Result<(Backup, jiff::Timestamp, blake3::Hash), Failure> {
        let location = work.path.display().to_string();
        let source = open_raw(&location)?;
        let (outcome, time) =
            east.backup(source.as_ref(), record(&location, "raw"), "second backup", self.output)?;
        self.backed_up(&outcome.snapshot, time);
        let created = outcome.snapshot.created.parse().unwrap_or_else(|_| jiff::Timestamp::now());
        let digest = digest(source.as_ref(), "read the changed disk", self.output)?;
        self.result(format!("BLAKE3 of all bytes of the changed disk {}…, kept aside", short(&digest)));
        Ok((backup(outcome.id.to_string(), &outcome.snapshot, time), created, digest))
    }

    fn backed_up(&self, snapshot: &Snapshot, time: Duration) {
        let statistics = &snapshot.statistics;
        self.result(format!(
            "read {} in {} ({}): {} is new, and takes {}",
            size::show(statistics.read_bytes),
            size::show_time(time),
            size::show_rate(statistics.read_bytes, time),
            size::show(statistics.new_bytes),
            size::show(statistics.stored_bytes)
        ));
    }

    fn copy(&self, east: &Site, west: &Site) -> Result<Copy, Failure> {
        self.heading(5, "Both snapshots go to west");
        let started = Instant::now();
        let mut stored_bytes = 0;
        for (what, sent) in [
            ("east pushes the first", east.push_first(west, self.output)?),
            ("west pulls the second", west.pull_rest(east, self.output)?),
        ] {
            stored_bytes += sent.outcome.stored_bytes;
            self.result(format!(
                "{what}: {} travelled for {} new chunks with {} of content",
                size::show(sent.wire_bytes),
                sent.outcome.chunks_sent,
                size::show(sent.outcome.content_bytes)
            ));
        }
        let time = started.elapsed();
        let roots = |site: &Site| -> Result<Vec<_>, Failure> {
            Ok(site.snapshots()?.iter().map(|snapshot| snapshot.root).collect())
        };
        let (here, there) = (roots(east)?, roots(west)?);
        let roots_equal = here == there && !here.is_empty();
        self.result(format!(
            "{} stored there, every byte checked on the way, in {}",
            size::show(stored_bytes),
            size::show_time(time)
        ));
        let root = |roots: &[_]| match roots.last() {
            Some(Some(root)) => format!("{root}").chars().take(12).collect(),
            _ => "none".to_owned(),
        };
        self.result(match roots_equal {
            true => {
                format!("chunks are named by content, so the copy has the same tree root: {}…", root(&here))
            }
            false => format!("THE TREE ROOTS DIFFER: {} at east, {} at west", root(&here), root(&there)),
        });
        Ok(Copy { snapshots: there.len(), stored_bytes, roots_equal, seconds: time.as_secs_f64() })
    }

    /// Returns when it happened.
    fn disaster(&self, work: &Work, east: Site) -> Result<Instant, Failure> {
        self.heading(6, "Disaster: east is lost, the disk and the whole repository");
        let folder = self.workspace.join(east.name);
        drop(east);
        let happened = Instant::now();
        std::fs::remove_file(&work.path).map_err(io("remove", &work.path))?;
        std::fs::remove_dir_all(&folder).map_err(io("remove", &folder))?;
        match open_with(&folder.display().to_string(), crate::servers::Side::Own, None, &self.key) {
            Err(failure) => self.result(format!("both are gone: {failure}")),
            Ok(_) => return Err(Failure::new(Code::Failed, "east is still there")),
        }
        Ok(happened)
    }

    fn recover(
        &self,
        before: blake3::Hash,
        disaster: Instant,
        recovery_point_seconds: f64,
    ) -> Result<(Recovery, PathBuf), Failure> {
        self.heading(8, "Recovery at west, from what west has");
        let (west, id) = self.west()?;
        let snapshot = west.snapshot(id)?;
        let path = self.workspace.join("recovered.raw");
        let name = path.display().to_string();
        let started = Instant::now();
        let options = CreateOptions { format: Some(Format::Raw), ..CreateOptions::default() };
        let target = create_target(&name, snapshot.virtual_size, &options)?;
        let outcome = self.restore(&west, &snapshot, RestoreMode::Write(target.as_ref()), "restore")?;
        target.finish(true)?;
        let time = started.elapsed();
        self.result(format!(
            "restored {}, wrote {} in {} ({})",
            size::show(snapshot.virtual_size),
            size::show(outcome.written_bytes),
            size::show_time(time),
            size::show_rate(outcome.written_bytes, time)
        ));
        let disk = open_raw(&name)?;
        let compared = self.restore(&west, &snapshot, RestoreMode::Compare(disk.as_ref()), "verify")?;
        let after = digest(disk.as_ref(), "read the recovered disk", self.output)?;
        let every_byte_equal = after == before && compared.differing_bytes == 0;
        self.result(match every_byte_equal {
            true => format!("every byte equal: BLAKE3 {}… as before the disaster", short(&after)),
            false => format!(
                "THE DISK DIFFERS: BLAKE3 {}… before, {}… now; {} differ from the snapshot",
                short(&before),
                short(&after),
                size::show(compared.differing_bytes)
            ),
        });
        let recovery = Recovery {
            written_bytes: outcome.written_bytes,
            restore_seconds: time.as_secs_f64(),
            blake3_before: before.to_string(),
            blake3_recovered: after.to_string(),
            every_byte_equal,
            differing_bytes: compared.differing_bytes,
            recovery_point_seconds,
            recovery_time_seconds: disaster.elapsed().as_secs_f64(),
            recovery_time_booted_seconds: None,
        };
        Ok((recovery, path))
    }

    fn restore(
        &self,
        site: &leeward_repository::Repository,
        snapshot: &Snapshot,
        mode: RestoreMode<'_>,
        label: &str,
    ) -> Result<leeward_repository::RestoreOutcome, Failure> {
        let watch = Watch::new(self.output, snapshot.virtual_size, label);
        let outcome = site.restore(snapshot, mode, default_threads(), &watch);
        watch.finish();
        Ok(outcome?)
    }

    fn boot(&self, recovered: &std::path::Path) -> Result<Boot, Failure> {
        self.heading(9, "Booting the recovered disk");
        let boot = if self.arguments.no_boot {
            Boot::skipped("not asked for")
        } else {
            let name = recovered.display().to_string();
            let start = layout(open_raw(&name)?.as_ref()).start;
            boot(&name, start, &self.wish(), self.workspace.path(), self.output)?
        };
        self.result(boot.describe());
        Ok(boot)
    }

    fn wish(&self) -> Wish<'_> {
        let limit = Duration::from_secs(self.arguments.boot_timeout);
        Wish { until: self.arguments.boot_until.as_deref(), limit }
    }

    /// What is left at the second site, and the snapshot that matters.
    fn west(&self) -> Result<(Repository, SnapshotId), Failure> {
        let west = open_with(
            &self.workspace.join("west").display().to_string(),
            crate::servers::Side::Own,
            None,
            &self.key,
        )?;
        let id = west.resolve(&IMAGE.parse::<SnapshotSpec>()?)?.id;
        Ok((west, id))
    }

    /// Starts a machine whose disk is the snapshot in the repository, served over NBD: nothing is restored before.
    fn start_at_once(&self, disaster: Instant) -> Result<AtOnce, Failure> {
        self.heading(7, "The machine starts at once, straight from west's repository");
        let decided = Instant::now();
        let (west, id) = self.west()?;
        let source: SharedSource = Arc::new(west.source(id)?);
        let mut at_once = AtOnce {
            first_read_seconds: None,
            read_bytes: 0,
            recovery_time_seconds: None,
            boot: Boot::skipped("not asked for"),
        };
        if !self.arguments.no_boot {
            let start = layout(source.as_ref()).start;
            let device = Arc::new(ReadOnly::new(source));
            let export = Export { name: "disk".to_owned(), description: IMAGE.to_owned(), device };
            let socket = self.workspace.join("nbd");
            let server = Server::bind(Listen::Unix(socket), vec![export], ServerOptions::default())?;
            let served_after = decided.elapsed();
            let (url, has_ended) = (server.url("disk"), AtomicBool::new(false));
            at_once.boot = std::thread::scope(|scope| {
                let serving = scope.spawn(|| server.serve(&|| has_ended.load(Ordering::Relaxed)));
                let booted = boot(&url, start, &self.wish(), self.workspace.path(), self.output);
                has_ended.store(true, Ordering::Relaxed);
                let served = serving.join();
                let booted = booted?;
                served.map_err(|_| Failure::new(Code::Failed, "the server has died"))??;
                Ok::<Boot, Failure>(booted)
            })?;
            let statistics = server.statistics();
            let first_read = statistics.first_read.map(|time| (served_after + time).as_secs_f64());
            (at_once.first_read_seconds, at_once.read_bytes) = (first_read, statistics.bytes_read);
        }
        if at_once.boot.result == boot::Result::Booted {
            at_once.recovery_time_seconds = Some(disaster.elapsed().as_secs_f64());
        }
        self.result(at_once.boot.describe());
        if let Some(first_read) = at_once.first_read_seconds {
            self.result(format!(
                "nothing was restored: the first read was served after {}, and {} in all",
                size::show_time(Duration::from_secs_f64(first_read)),
                size::show(at_once.read_bytes)
            ));
        }
        Ok(at_once)
    }

    fn look_again(&self, work: &mut Work) -> Result<(), Failure> {
        if !work.disk.is_given {
            return Ok(());
        }
        // Opened anew: what a reader remembers must not speak for the file.
        let source = self.open_given(&work.disk.location)?;
        let unchanged = digest(source.as_ref(), "read your disk again", self.output)? == work.digest;
        work.disk.is_unchanged = Some(unchanged);
        self.heading(10, "Your disk, once more");
        self.result(match unchanged {
            true => "unchanged: the same BLAKE3 as at the beginning",
            false => {
                "ITS CONTENT HAS CHANGED MEANWHILE. Leeward only reads it; is a machine running from it?"
            }
        });
        Ok(())
    }
}

fn open_raw(location: &str) -> Result<SharedSource, Failure> {
    Ok(open_source(location, &OpenOptions::with_format(Format::Raw))?)
}

fn record(location: &str, format: &str) -> SourceRecord {
    SourceRecord { location: location.to_owned(), format: format.to_owned(), host: host_name() }
}

fn backup(snapshot: String, manifest: &Snapshot, time: Duration) -> Backup {
    Backup { snapshot, statistics: manifest.statistics, seconds: time.as_secs_f64() }
}

fn short(digest: &blake3::Hash) -> String {
    digest.to_hex().chars().take(12).collect()
}
