//! `leeward restore GROUP --in-place`: the disks of a stopped machine are brought back to what they were.
//!
//! Nothing is written before every disk is known to be free, of the right size, and locked; the locks are kept to the
//! end, so that no machine starts in between. Then: new qcow2 images are built beside the old ones; raw disks are patched;
//! the new images take the names of the old, which are kept as `.before-revert` until all is done. Whatever is killed in
//! between, a second run completes it: it compares before it writes.

use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use leeward_disk::in_use::Held;
use leeward_disk::{
    CreateOptions, Format, OpenOptions, References, SharedSource, SharedTarget, Source, create_target,
    default_threads, open_path, open_target,
};
use leeward_repository::{Repository, RestoreMode, RestoreOutcome, host_name};
use leeward_store::bucket::RequestCounts;

use super::RestoreArguments;
use super::group::{MemberDisk, Restorable, goes_by};
use crate::failure::{Code, Failure};
use crate::output::{Output, printable};

use crate::verb::quickstart::tools::{check_interrupt, io};
use crate::verb::repository::Watch;
use crate::{requests, size};

/// Ending of a qcow2 image that was replaced, until all disks are done.
const BEFORE: &str = "before-revert";
/// Ending of the image that replaces it, until it is complete.
const AFTER: &str = "after-revert";

/// Runs it.
pub fn revert(
    arguments: &RestoreArguments,
    repository: &Repository,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let mut group = Restorable::load(repository, &arguments.snapshot)?;
    let wishes: Vec<(&str, Option<&Path>)> = arguments.machine.disks.iter().map(|wish| split(wish)).collect();
    let chosen: Vec<String> =
        wishes.iter().filter(|(_, path)| path.is_none()).map(|(name, _)| (*name).to_owned()).collect();
    let named: Vec<String> = wishes.iter().map(|(name, _)| (*name).to_owned()).collect();
    // Places alone do not leave the other disks out.
    group.select(if chosen.is_empty() { &[] } else { &named })?;
    if chosen.is_empty() {
        check_names(&group, &named)?;
    }
    let mut disks = Vec::new();
    for member in &group.members {
        let given = wishes.iter().find(|(name, path)| path.is_some() && goes_by(member, name));
        let place = Place::of(member, given.and_then(|(_, path)| *path))?;
        disks.push(Disk::open(member, place, arguments)?);
    }
    check_apart(&disks)?;
    show_plan(&group, &disks, output);
    if arguments.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    agree(arguments.machine.yes)?;
    let work = Work { repository, arguments, output };
    let outcomes = work.run(&mut disks)?;
    report(&group, &disks, &outcomes, started.elapsed(), repository.requests(), output);
    Ok(ExitCode::SUCCESS)
}

/// `NAME` or `NAME=PATH`.
fn split(wish: &str) -> (&str, Option<&Path>) {
    wish.split_once('=').map_or((wish, None), |(name, path)| (name, Some(Path::new(path))))
}

fn check_names(group: &Restorable, names: &[String]) -> Result<(), Failure> {
    match names.iter().find(|name| !group.members.iter().any(|member| goes_by(member, name))) {
        None => Ok(()),
        Some(name) => {
            Err(Failure::new(Code::NotFound, format!("group {} has no disk {name:?}", group.group.id))
                .hint(format!("see its disks with: leeward show {}", group.group.id)))
        }
    }
}

/// Where a disk is to be brought back.
struct Place {
    path: PathBuf,
    /// The format of what is there, where it is known from the backup.
    format: Option<Format>,
}

impl Place {
    /// The place that the person gave, or else the recorded one, which only holds on the host that had it.
    fn of(member: &MemberDisk, given: Option<&Path>) -> Result<Self, Failure> {
        let label = member.label();
        let say = format!("say where it is with: --disk {}=PATH", member.name);
        if let Some(path) = given {
            return Ok(Self { path: found(path, &label)?, format: None });
        }
        let source = &member.snapshot.source;
        let recorded = match &member.definition {
            Some(disk) => disk.location.clone().zip(disk.format.clone()),
            None => Some((source.location.clone(), source.format.clone())),
        };
        let recorded = recorded.filter(|(location, _)| location.starts_with('/'));
        let Some((location, format)) = recorded else {
            return Err(Failure::new(
                Code::NotFound,
                format!("{label}: the backup does not tell a file or device where the disk was"),
            )
            .hint(say));
        };
        if source.host != host_name() {
            let host = printable(&source.host);
            return Err(Failure::new(
                Code::Refused,
                format!("{label}: refused: the disk was on another host, {host}"),
            )
            .hint(say));
        }
        let format: Format = format.parse().map_err(|_| {
            Failure::new(
                Code::Refused,
                format!("{label}: a disk of format {} cannot be brought back in place", printable(&format)),
            )
            .hint("restore it to a new file")
        })?;
        Ok(Self { path: found(Path::new(&location), &label)?, format: Some(format) })
    }
}

fn found(path: &Path, label: &str) -> Result<PathBuf, Failure> {
    if leeward_disk::nbd::NbdUrl::is_nbd(&path.to_string_lossy()) {
        return Err(Failure::new(Code::Refused, format!("{label}: a URL is not brought back in place"))
            .hint("restore that disk alone with: leeward restore IMAGE@SNAPSHOT URL --onto"));
    }
    path.canonicalize().map_err(|error| {
        let shown = printable(&path.display().to_string());
        let code = if error.kind() == std::io::ErrorKind::NotFound { Code::NotFound } else { Code::Io };
        Failure::new(code, format!("{label}: the disk's place {shown} cannot be found: {error}"))
            .hint("say where the disk is with --disk NAME=PATH, or restore to new files with --as")
    })
}

/// A disk that is to be brought back. Nothing that was opened of it is closed before the end: that would unlock it.
struct Disk<'a> {
    member: &'a MemberDisk,
    path: PathBuf,
    name: String,
    identity: (u64, u64),
    format: Format,
    size: u64,
    notes: Vec<String>,
    existing: Vec<SharedSource>,
    target: Option<SharedTarget>,
    locks: Vec<Held>,
    /// The image that is to replace this one.
    new: Option<PathBuf>,
}

impl<'a> Disk<'a> {
    /// Opens and locks it; changes nothing.
    fn open(member: &'a MemberDisk, place: Place, arguments: &RestoreArguments) -> Result<Self, Failure> {
        let Place { path, format } = place;
        let refused =
            |what: String| Failure::new(Code::Refused, format!("{}: refused: {what}", path.display()));
        let metadata = path.metadata().map_err(io("examine", &path))?;
        let is_device = metadata.file_type().is_block_device();
        if !is_device && !metadata.is_file() {
            return Err(refused("neither a regular file nor a block device".to_owned()));
        }
        let name = path.to_str().ok_or_else(|| refused("its path is not in UTF-8".to_owned()))?.to_owned();
        let references = match &arguments.machine.allow_references {
            Some(directory) => References::Within(directory.clone()),
            None => References::Refuse,
        };
        let options = OpenOptions { format, references, ..OpenOptions::default() };
        let existing = open_path(&path, &options)?;
        let info = existing.info();
        if !matches!(info.format, Format::Raw | Format::Qcow2) || (is_device && info.format != Format::Raw) {
            return Err(refused(format!("a {} image is not brought back in place", info.format))
                .hint("restore to a new file instead"));
        }
        let (size, wanted) = (info.virtual_size, member.snapshot.virtual_size);
        if size != wanted && !arguments.force {
            return Err(refused(format!("the disk has {size} bytes, and had {wanted} when it was backed up"))
                .hint("if it is the right disk, say --force: a longer one is filled up with zeros, a shorter file grows"));
        }
        let snapshots = info.details.iter().any(|(name, _)| *name == "internal snapshot");
        if snapshots && !arguments.force {
            return Err(refused("the image has snapshots of its own, which would be lost".to_owned())
                .hint("remove them with qemu-img snapshot -d, or say --force"));
        }
        let mut notes = Vec::new();
        if let Some((_, file)) = info.details.iter().find(|(name, _)| *name == "backing file") {
            notes.push(format!("it will not need its backing file {} any more", printable(file)));
        }
        let mut disk = Self {
            member,
            identity: if is_device { (0, metadata.rdev()) } else { (metadata.dev(), metadata.ino()) },
            name,
            format: info.format,
            size,
            notes,
            existing: vec![existing],
            target: None,
            locks: Vec::new(),
            new: None,
            path,
        };
        disk.lock(is_device)?;
        Ok(disk)
    }

    fn lock(&mut self, is_device: bool) -> Result<(), Failure> {
        // A device opened to be written is locked, and also refused where this host itself uses it.
        if is_device {
            self.target = Some(open_target(&self.name, self.member.snapshot.virtual_size)?);
        } else {
            self.locks.push(Held::lock(&self.path)?);
        }
        Ok(())
    }

    /// Removes what killed runs had begun to build. The lock on the disk tells that no other run is at it.
    fn remove_leftovers(&self) {
        let new = self.beside(AFTER);
        let _ = std::fs::remove_file(&new);
        let (Some(directory), Some(name)) = (new.parent(), new.file_name().and_then(|name| name.to_str()))
        else {
            return;
        };
        // As unfinished targets are called: `.NAME.PROCESS-NUMBER.part`.
        let prefix = format!(".{name}.");
        let is_unfinished = |found: &str| {
            let middle = found.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".part"));
            middle.is_some_and(|middle| middle.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'))
        };
        for entry in directory.read_dir().into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(is_unfinished) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".");
        path.push(ending);
        path.into()
    }
}

/// Two disks that are one file would undo each other.
fn check_apart(disks: &[Disk<'_>]) -> Result<(), Failure> {
    for (index, disk) in disks.iter().enumerate() {
        if let Some(other) = disks[..index].iter().find(|other| other.identity == disk.identity) {
            return Err(Failure::new(
                Code::Usage,
                format!(
                    "{} and {} are to become the same disk {}",
                    other.member.label(),
                    disk.member.label(),
                    disk.name
                ),
            )
            .hint("say where each of them is with --disk NAME=PATH"));
        }
    }
    Ok(())
}

fn show_plan(group: &Restorable, disks: &[Disk<'_>], output: &Output) {
    output.line(format!(
        "Bringing {} back to {} (group {}):",
        group.machine(),
        group.group.created.strftime("%Y-%m-%d %H:%M:%SZ"),
        group.group.id
    ));
    for disk in disks {
        let how = match disk.format {
            Format::Qcow2 => "replaced by a new image if it differs",
            _ => "what differs is overwritten",
        };
        output.line(format!(
            "  {} to {} ({}, {}): {how}",
            disk.member.label(),
            printable(&disk.name),
            disk.format,
            size::show(disk.size)
        ));
        disk.notes.iter().for_each(|note| output.line(format!("    note: {note}")));
    }
    if output.is_json() {
        output.json_line(&serde_json::json!({
            "in_place": true, "group": group.group.id, "machine": group.machine(),
            "disks": disks.iter().map(|disk| serde_json::json!({
                "name": disk.member.name, "image": disk.member.image, "snapshot": disk.member.id,
                "path": disk.name, "format": disk.format, "size": disk.size, "notes": disk.notes,
            })).collect::<Vec<_>>(),
        }));
    }
}

/// Asks the person, where there is one.
fn agree(yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let refused = || {
        Failure::new(Code::Refused, "refused: what these disks hold now would be lost")
            .hint("say --yes to do it; a backup before it can bring the present state back")
    };
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(refused());
    }
    eprint!("What these disks hold now will be lost. Go on? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    check_interrupt()?;
    let agreed = read.is_ok() && ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str());
    if agreed { Ok(()) } else { Err(refused()) }
}

struct Work<'a> {
    repository: &'a Repository,
    arguments: &'a RestoreArguments,
    output: &'a Output,
}

impl Work<'_> {
    fn run(&self, disks: &mut [Disk<'_>]) -> Result<Vec<Option<RestoreOutcome>>, Failure> {
        let mut outcomes = vec![None; disks.len()];
        let built = self.build(disks, &mut outcomes).and_then(|()| self.patch(disks, &mut outcomes));
        let replaced = built.and_then(|()| self.replace(disks));
        if let Err(failure) = replaced {
            for new in disks.iter().filter_map(|disk| disk.new.as_ref()) {
                let _ = std::fs::remove_file(new);
            }
            return Err(failure);
        }
        for disk in disks.iter().filter(|disk| disk.format == Format::Qcow2) {
            // This run's, or that of one that was killed.
            let before = disk.beside(BEFORE);
            match std::fs::remove_file(&before) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io("remove the image that was replaced,", &before)(error));
                }
                _ => {}
            }
        }
        Ok(outcomes)
    }

    fn restore(&self, disk: &Disk<'_>, mode: RestoreMode<'_>, what: &str) -> Result<RestoreOutcome, Failure> {
        let snapshot = &disk.member.snapshot;
        let watch =
            Watch::new(self.output, snapshot.virtual_size, &format!("{what} {}", disk.member.label()));
        let threads = self.arguments.threads.unwrap_or_else(default_threads);
        let result = self.repository.restore(snapshot, mode, threads, &watch);
        watch.finish();
        Ok(result?)
    }

    fn verify(&self, disk: &Disk<'_>, written: &dyn Source) -> Result<(), Failure> {
        match self.restore(disk, RestoreMode::Compare(written), "verify")?.differing_bytes {
            0 => Ok(()),
            bytes => Err(Failure::new(
                Code::Differs,
                format!("{}: {bytes} bytes do not read as they were written", printable(&disk.name)),
            )
            .hint("the disk of this host, or its memory, gives wrong bytes")),
        }
    }

    /// New images for those qcow2 images that differ. There is no writing in the middle of such an image: its tables may
    /// be damaged by a crash half-way, and its dirty bitmaps would lie.
    fn build(&self, disks: &mut [Disk<'_>], outcomes: &mut [Option<RestoreOutcome>]) -> Result<(), Failure> {
        for (disk, outcome) in disks.iter_mut().zip(outcomes) {
            if disk.format != Format::Qcow2 {
                continue;
            }
            disk.remove_leftovers();
            let virtual_size = disk.member.snapshot.virtual_size;
            if let Some(existing) = disk.existing.first().filter(|_| disk.size == virtual_size) {
                let compared = self.restore(disk, RestoreMode::Compare(existing.as_ref()), "compare")?;
                if compared.differing_bytes == 0 {
                    *outcome = Some(compared);
                    continue;
                }
            }
            let path = disk.beside(AFTER);
            let cluster = disk.existing.first().and_then(|existing| {
                let details = existing.info().details;
                details.iter().find(|(name, _)| *name == "cluster size")?.1.parse().ok()
            });
            let options = CreateOptions {
                format: Some(Format::Qcow2),
                cluster_bytes: cluster,
                overwrite: true,
                ..CreateOptions::default()
            };
            let target = create_target(&path.to_string_lossy(), virtual_size, &options)?;
            let written = self.restore(disk, RestoreMode::Write(target.as_ref()), "rebuild")?;
            target.finish(!self.arguments.no_sync)?;
            disk.new = Some(path.clone());
            if self.arguments.verify {
                self.verify(disk, open_path(&path, &OpenOptions::with_format(Format::Qcow2))?.as_ref())?;
            }
            self.like_the_old(&disk.path, &path)?;
            *outcome = Some(written);
        }
        Ok(())
    }

    /// The new image has the owner and the permissions of the old, or the machine could not open it.
    fn like_the_old(&self, old: &Path, new: &Path) -> Result<(), Failure> {
        let metadata = old.metadata().map_err(io("examine", old))?;
        let made = new.metadata().map_err(io("examine", new))?;
        if (metadata.uid(), metadata.gid()) != (made.uid(), made.gid()) {
            std::os::unix::fs::chown(new, Some(metadata.uid()), Some(metadata.gid()))
                .map_err(io("give the owner of the old image to", new))?;
        }
        std::fs::set_permissions(new, metadata.permissions()).map_err(io("set the permissions of", new))
    }

    fn patch(&self, disks: &mut [Disk<'_>], outcomes: &mut [Option<RestoreOutcome>]) -> Result<(), Failure> {
        for (disk, outcome) in disks.iter_mut().zip(outcomes) {
            if disk.format == Format::Qcow2 {
                continue;
            }
            let target = match disk.target.take() {
                Some(target) => target,
                None => open_target(&disk.name, disk.member.snapshot.virtual_size)?,
            };
            let grew = target.virtual_size() != disk.size;
            disk.target = Some(target.clone());
            if grew {
                disk.existing.push(open_path(&disk.path, &OpenOptions::with_format(Format::Raw))?);
            }
            let Some(existing) = disk.existing.last() else { continue };
            let mode = RestoreMode::Patch(target.as_ref(), existing.as_ref());
            let patched = self.restore(disk, mode, "revert");
            let patched = patched.map_err(|failure| {
                let hint =
                    "the disk may be partly as it was then: run the same command again, which completes it";
                failure.hint(hint)
            })?;
            target.finish(!self.arguments.no_sync)?;
            if self.arguments.verify {
                self.verify(disk, existing.as_ref())?;
            }
            *outcome = Some(patched);
        }
        Ok(())
    }

    /// Gives the new images the names of the old.
    fn replace(&self, disks: &mut [Disk<'_>]) -> Result<(), Failure> {
        check_interrupt()?;
        let mut replaced: Vec<(PathBuf, PathBuf)> = Vec::new();
        for disk in disks.iter_mut() {
            let Some(new) = disk.new.clone() else { continue };
            let before = disk.beside(BEFORE);
            let swapped = Held::lock(&new).map_err(Failure::from).and_then(|lock| {
                disk.locks.push(lock);
                swap(&disk.path, &new, &before)
            });
            if let Err(failure) = swapped {
                for (path, before) in replaced.iter().rev() {
                    let _ = std::fs::rename(before, path);
                }
                return Err(failure);
            }
            disk.new = None;
            replaced.push((disk.path.clone(), before));
        }
        Ok(())
    }
}

/// `path` is never missing: the old image gets a second name before the new one takes its first.
fn swap(path: &Path, new: &Path, before: &Path) -> Result<(), Failure> {
    match std::fs::hard_link(path, before) {
        // Left by a run that was killed: that one is the older.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other.map_err(io("keep the old image as", before))?,
    }
    std::fs::rename(new, path).map_err(io("give the new image the name", path))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io("flush", directory))
}

fn report(
    group: &Restorable,
    disks: &[Disk<'_>],
    outcomes: &[Option<RestoreOutcome>],
    time: std::time::Duration,
    sent: Option<RequestCounts>,
    output: &Output,
) {
    if output.is_json() {
        output.json_line(&serde_json::json!({
            "reverted": group.group.id, "seconds": time.as_secs_f64(), "requests": requests::value(sent),
            "disks": disks.iter().zip(outcomes).map(|(disk, outcome)| serde_json::json!({
                "name": disk.member.name, "path": disk.name, "restore": outcome,
            })).collect::<Vec<_>>(),
        }));
    }
    output.line(format!("Brought {} back in {}", group.machine(), size::show_time(time)));
    for (disk, outcome) in disks.iter().zip(outcomes) {
        let Some(outcome) = outcome else { continue };
        output.line(format!(
            "  {}: wrote {}, zeroed {}, of {} of data",
            printable(&disk.name),
            size::show(outcome.written_bytes),
            size::show(outcome.zeroed_bytes),
            size::show(outcome.data_bytes)
        ));
    }
    requests::tell(sent, output);
}
