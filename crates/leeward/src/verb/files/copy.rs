//! `leeward cp`: files out of a disk.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;

use leeward_files::{FileSystem, FileType, Flow, Follow, Metadata, Node, lookup, walk_extents};
use rustix::io::Errno;
use serde::Serialize;
use serde_json::json;

use super::place::Place;
use super::writer::{self, Directory, Rules};
use super::{CpArguments, names};
use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::Output;
use crate::progress::Progress;
use crate::size;

const BUFFER: usize = 1 << 20;
/// Each level holds a file open.
const DEPTH_MAX: usize = 400;
/// Entries of one directory; more are refused rather than kept in memory.
const ENTRIES_MAX: usize = 4_000_000;

/// What was copied.
#[derive(Debug, Default, Serialize)]
struct Copied {
    files: u64,
    directories: u64,
    links: u64,
    bytes: u64,
    skipped: u64,
    failed: u64,
}

/// Why a copy of one thing did not come about.
enum Trouble {
    /// The person stopped it.
    Interrupted,
    /// This entry only.
    Entry(String),
}

impl From<leeward_files::Error> for Trouble {
    fn from(error: leeward_files::Error) -> Self {
        match &error {
            leeward_files::Error::Cancelled => Self::Interrupted,
            other => Self::Entry(match std::error::Error::source(other) {
                Some(cause) => format!("{other}: {cause}"),
                None => other.to_string(),
            }),
        }
    }
}

/// A walk that copies.
struct Copy<'a> {
    files: &'a dyn FileSystem,
    output: &'a Output,
    progress: Progress,
    rules: Rules,
    dry_run: bool,
    seen: HashSet<Node>,
    buffer: Vec<u8>,
    copied: Copied,
}

/// Runs `cp`.
pub fn run(
    arguments: &CpArguments,
    files: &dyn FileSystem,
    place: &Place,
    output: &Output,
) -> Result<ExitCode, Failure> {
    if arguments.to == Path::new("-") {
        return to_stdout(files, place);
    }
    if arguments.owners && !rustix::process::geteuid().is_root() && !arguments.dry_run {
        return Err(Failure::new(Code::Refused, "only root may keep owners")
            .hint("run it as root, or without --owners: the files will be yours"));
    }
    let node = lookup(files, &place.path, Follow::No)?;
    let (parent, name) = target(&arguments.to, &place.path)?;
    let mut copy = Copy {
        files,
        output,
        progress: Progress::new(output, 0, "copy"),
        rules: Rules { force: arguments.force, owners: arguments.owners },
        dry_run: arguments.dry_run,
        seen: HashSet::new(),
        buffer: vec![0; BUFFER],
        copied: Copied::default(),
    };
    let parent = match (&parent, arguments.dry_run) {
        (_, true) => None,
        (path, false) => Some(Directory::open(path).map_err(|errno| {
            Failure::new(
                Code::NotFound,
                format!("{}: cannot open the directory to copy into: {errno}", path.display()),
            )
            .hint("make it first, or choose another target")
        })?),
    };
    let shown = match &name {
        Some(name) => names::shown(name),
        None => ".".to_owned(),
    };
    let done = match &name {
        Some(name) => copy.entry(node, parent.as_ref(), name, name.clone(), 0),
        None => copy.directory(node, parent.as_ref(), b"", 0),
    };
    copy.progress.finish();
    match done {
        Ok(()) => {}
        Err(Trouble::Interrupted) => {
            return Err(Failure::new(Code::Interrupted, "interrupted")
                .hint("what was copied completely stays; run it again with --force to replace it"));
        }
        Err(Trouble::Entry(why)) => copy.fail(shown.as_bytes(), &why),
    }
    copy.report(&arguments.to)
}

/// Where to write: a directory that is there, and a name in it. Without a name the content goes into the directory.
fn target(to: &Path, from: &[u8]) -> Result<(std::path::PathBuf, Option<Vec<u8>>), Failure> {
    if to.is_dir() {
        let name = from.split(|&byte| byte == b'/').rfind(|part| !part.is_empty() && *part != b".");
        let name = name.filter(|name| *name != b"..").map(<[u8]>::to_vec);
        return Ok((to.to_owned(), name));
    }
    let usage = || Failure::new(Code::Usage, format!("{}: cannot be the name of a copy", to.display()));
    let name = to.file_name().ok_or_else(usage)?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((parent.to_owned(), Some(name.as_bytes().to_vec())))
}

fn to_stdout(files: &dyn FileSystem, place: &Place) -> Result<ExitCode, Failure> {
    let node = lookup(files, &place.path, Follow::Yes)?;
    if files.metadata(node)?.file_type != FileType::File {
        let path = names::shown(&place.path);
        return Err(Failure::new(
            Code::Usage,
            format!("{path}: only a file can be written to standard output"),
        )
        .hint("name a directory to copy into instead of -"));
    }
    let mut out = std::io::stdout().lock();
    let mut buffer = vec![0; BUFFER];
    let mut offset = 0;
    loop {
        if interrupt::is_requested() {
            return Err(Failure::new(Code::Interrupted, "interrupted"));
        }
        let count = files.read_at(node, &mut buffer, offset)?;
        if count == 0 {
            break;
        }
        let part = buffer.get(..count).unwrap_or_default();
        out.write_all(part)
            .map_err(|error| Failure::new(Code::Io, format!("cannot write to standard output: {error}")))?;
        offset += count as u64;
    }
    out.flush()
        .map_err(|error| Failure::new(Code::Io, format!("cannot write to standard output: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

fn cannot(what: &str, errno: Errno) -> Trouble {
    Trouble::Entry(match errno {
        Errno::EXIST => format!("cannot {what}: it is there already; --force replaces it"),
        Errno::ISDIR => format!("cannot {what}: a directory is in its place"),
        Errno::LOOP | Errno::NOTDIR => {
            format!("cannot {what}: a link or file is in its place, which is never followed")
        }
        other => format!("cannot {what}: {other}"),
    })
}

impl Copy<'_> {
    /// Copies one thing under a name into a directory. `path` is the way from where the copy began.
    fn entry(
        &mut self,
        node: Node,
        parent: Option<&Directory>,
        name: &[u8],
        path: Vec<u8>,
        depth: usize,
    ) -> Result<(), Trouble> {
        if interrupt::is_requested() {
            return Err(Trouble::Interrupted);
        }
        if let Some(why) = names::refused(name) {
            return Err(Trouble::Entry(format!("refused: {why}")));
        }
        let metadata = self.files.metadata(node)?;
        self.progress.note(&format!("copy: {} files, {}", self.copied.files, size::show(self.copied.bytes)));
        if self.dry_run {
            self.show(&path, &metadata);
        }
        match metadata.file_type {
            FileType::Directory => {
                let made = match parent {
                    Some(parent) => {
                        Some(parent.directory(name).map_err(|errno| cannot("make the directory", errno))?)
                    }
                    None => None,
                };
                self.directory(node, made.as_ref(), &path, depth)?;
            }
            FileType::File => {
                if let Some(parent) = parent {
                    self.file(node, parent, name, &metadata)?;
                }
                self.copied.files += 1;
            }
            FileType::Symlink => {
                let target = self.files.read_link(node)?;
                if let Some(parent) = parent {
                    parent
                        .link(name, &target, &metadata, self.rules)
                        .map_err(|errno| cannot("make the link", errno))?;
                }
                self.copied.links += 1;
            }
            other => {
                self.copied.skipped += 1;
                let what = match other {
                    FileType::CharacterDevice | FileType::BlockDevice => "a device",
                    FileType::Fifo => "a named pipe",
                    FileType::Socket => "a socket",
                    _ => "neither file, directory nor link",
                };
                self.tell(&path, "skipped", what);
            }
        }
        Ok(())
    }

    /// Copies what is in a directory; what fails is told, and the rest goes on.
    fn directory(
        &mut self,
        node: Node,
        made: Option<&Directory>,
        path: &[u8],
        depth: usize,
    ) -> Result<(), Trouble> {
        if depth >= DEPTH_MAX {
            return Err(Trouble::Entry(format!("more than {DEPTH_MAX} directories in each other")));
        }
        if !self.seen.insert(node) {
            return Err(Trouble::Entry(
                "the disk leads to this directory in two ways; it was copied once".to_owned(),
            ));
        }
        let mut entries = Vec::new();
        let walked = self.files.read_dir(node, &mut |entry| {
            if interrupt::is_requested() || entries.len() >= ENTRIES_MAX {
                return Ok(Flow::Stop);
            }
            entries.push(entry);
            Ok(Flow::Continue)
        });
        if entries.len() >= ENTRIES_MAX {
            self.fail(
                path,
                &format!("the directory has more than {ENTRIES_MAX} entries; the rest is left out"),
            );
        }
        for entry in entries {
            let below = if path.is_empty() { entry.name.clone() } else { [path, b"/", &entry.name].concat() };
            match self.entry(entry.node, made, &entry.name, below.clone(), depth + 1) {
                Ok(()) => {}
                Err(Trouble::Interrupted) => return Err(Trouble::Interrupted),
                Err(Trouble::Entry(why)) => self.fail(&below, &why),
            }
        }
        self.copied.directories += 1;
        // The directory that the person chose keeps its own mode.
        if let Some(made) = made.filter(|_| !path.is_empty()) {
            let metadata = self.files.metadata(node)?;
            made.finish(&metadata, self.rules).map_err(|errno| cannot("set mode and times", errno))?;
        }
        Ok(walked?)
    }

    fn file(
        &mut self,
        node: Node,
        parent: &Directory,
        name: &[u8],
        metadata: &Metadata,
    ) -> Result<(), Trouble> {
        let file = parent.create(name, self.rules).map_err(|errno| cannot("make the file", errno))?;
        let written = self.content(node, &file, metadata).and_then(|()| {
            writer::finish(&file, metadata, self.rules).map_err(|errno| cannot("set mode and times", errno))
        });
        if written.is_err() {
            parent.remove(name);
        }
        written
    }

    /// Writes the data and leaves the holes.
    fn content(&mut self, node: Node, file: &File, metadata: &Metadata) -> Result<(), Trouble> {
        let failed = |error: std::io::Error| Trouble::Entry(format!("cannot write: {error}"));
        file.set_len(metadata.size).map_err(failed)?;
        let (files, buffer, copied, progress) =
            (self.files, &mut self.buffer, &mut self.copied, &self.progress);
        walk_extents(files, node, |extent| {
            if interrupt::is_requested() {
                return Err(Trouble::Interrupted);
            }
            if !extent.is_data {
                return Ok(());
            }
            let mut done = 0;
            while done < extent.length {
                if interrupt::is_requested() {
                    return Err(Trouble::Interrupted);
                }
                let wanted = (extent.length - done).min(BUFFER as u64) as usize;
                let part = buffer.get_mut(..wanted).unwrap_or_default();
                let count = files.read_at(node, part, extent.offset + done)?;
                if count != wanted {
                    return Err(Trouble::Entry("its content ends too early".to_owned()));
                }
                file.write_all_at(part, extent.offset + done).map_err(failed)?;
                done += count as u64;
                copied.bytes += count as u64;
                progress.note(&format!("copy: {} files, {}", copied.files, size::show(copied.bytes)));
            }
            Ok(())
        })
    }

    fn show(&self, path: &[u8], metadata: &Metadata) {
        let target = None;
        if self.output.is_json() {
            self.output.json_line(&super::list::json(path, metadata, target));
        }
        self.output.line(names::shown(path));
    }

    fn tell(&self, path: &[u8], what: &str, why: &str) {
        let path = names::shown(path);
        if self.output.is_json() {
            self.output.json_line(&json!({ "path": path, what: why }));
        }
        eprintln!("leeward: {path}: {what}: {why}");
    }

    fn fail(&mut self, path: &[u8], why: &str) {
        self.copied.failed += 1;
        self.tell(path, "failed", why);
    }

    fn report(&self, to: &Path) -> Result<ExitCode, Failure> {
        let copied = &self.copied;
        if self.output.is_json() {
            self.output.json_line(
                &json!({ "to": to.display().to_string(), "dry_run": self.dry_run, "copied": copied }),
            );
        }
        let verb = if self.dry_run { "Would copy" } else { "Copied" };
        self.output.line(format!(
            "{verb} {} files ({}), {} directories and {} links to {}; {} skipped",
            copied.files,
            size::show(copied.bytes),
            copied.directories,
            copied.links,
            to.display(),
            copied.skipped
        ));
        if copied.failed > 0 {
            return Err(Failure::new(Code::Failed, format!("{} things could not be copied", copied.failed))
                .hint("the lines above say which and why"));
        }
        Ok(ExitCode::SUCCESS)
    }
}
