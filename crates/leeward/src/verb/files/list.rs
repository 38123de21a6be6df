//! `leeward files`: volumes, or files as `ls -l` shows them.

use std::collections::HashSet;
use std::process::ExitCode;

use jiff::Timestamp;
use leeward_disk::SharedSource;
use leeward_files::{Content, Entry, FileSystem, FileType, Flow, Follow, Metadata, Node, lookup};
use serde_json::{Value, json};

use super::place::{Place, options};
use super::{DiskArguments, names};
use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::Output;
use crate::size;

/// Entries of a directory that are sorted and shown together.
const SORTED_MAX: usize = 100_000;

/// Lists the volumes of a disk.
pub fn volumes(disk: &SharedSource, arguments: &DiskArguments, output: &Output) -> Result<ExitCode, Failure> {
    let found = leeward_files::volumes(disk)?;
    for problem in &found.problems {
        eprintln!("leeward: warning: the partition table: {}", names::shown(problem.as_bytes()));
    }
    output.line(format!(
        "{:<20} {:>14} {:>10}  {:<18} {:<16} content",
        "volume", "offset", "size", "purpose", "label"
    ));
    for volume in &found.volumes {
        let (mut label, mut uuid, mut warnings, mut problem) =
            (None, None, Vec::new(), volume.problem.clone());
        let content = match &volume.content {
            Content::Other(what) => what.clone(),
            Content::Files(kind) => {
                match volume.open(options(arguments)) {
                    Ok(files) => {
                        let summary = files.summary();
                        (label, uuid) = (summary.label.clone(), summary.uuid.clone());
                        warnings.clone_from(&summary.warnings);
                    }
                    Err(error) => problem = Some(error.to_string()),
                }
                kind.to_string()
            }
        };
        if output.is_json() {
            output.json_line(&json!({
                "volume": volume.id, "offset": volume.offset, "size": volume.size, "purpose": volume.purpose,
                "name": volume.name, "content": content, "files": volume.has_files(), "label": label, "uuid": uuid,
                "warnings": warnings, "problem": problem,
            }));
        }
        let shown = |text: &Option<String>| names::shown(text.as_deref().unwrap_or("-").as_bytes());
        let uuid = uuid.map_or(String::new(), |uuid| format!("  {uuid}"));
        let offset = volume.offset.map_or("-".to_owned(), |offset| offset.to_string());
        output.line(format!(
            "{:<20} {offset:>14} {:>10}  {:<18} {:<16} {content}{uuid}",
            names::shown(volume.id.as_bytes()),
            size::show(volume.size),
            volume.purpose,
            shown(&label)
        ));
        for text in problem.iter().chain(&warnings) {
            output.line(format!(
                "  {}: {}",
                names::shown(volume.id.as_bytes()),
                names::shown(text.as_bytes())
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A walk that lists.
struct Listing<'a> {
    files: &'a dyn FileSystem,
    output: &'a Output,
    failed: u64,
}

/// Lists a file, or what is in a directory.
pub fn files(
    files: &dyn FileSystem,
    place: &Place,
    recursive: bool,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let mut listing = Listing { files, output, failed: 0 };
    let node = lookup(files, &place.path, Follow::No)?;
    let metadata = files.metadata(node)?;
    let path = trimmed(&place.path);
    if metadata.file_type != FileType::Directory {
        listing.show(node, path, path, &metadata);
        return Ok(ExitCode::SUCCESS);
    }
    // A damaged or hostile disk may lead to one directory in two ways, or in a circle: each is listed once.
    let mut seen = HashSet::from([node]);
    let mut todo = vec![(node, path.to_vec())];
    while let Some((directory, path)) = todo.pop() {
        if recursive {
            let shown = if path.is_empty() { "/".to_owned() } else { names::shown(&path) };
            output.line(format!("{shown}:"));
        }
        let mut below = listing.directory(directory, &path)?;
        if recursive {
            below.reverse();
            below.retain(|(node, _)| seen.insert(*node));
            todo.append(&mut below);
            if !todo.is_empty() {
                output.line("");
            }
        }
    }
    if listing.failed > 0 {
        return Err(Failure::new(Code::Damaged, format!("{} entries could not be read", listing.failed))
            .hint("the lines above say which; try an older snapshot, or --ignore-checksums"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The path without slashes at its end; the root is empty.
fn trimmed(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    path.get(..end).unwrap_or_default()
}

impl Listing<'_> {
    /// Shows what is in a directory; returns the directories in it.
    fn directory(&mut self, node: Node, path: &[u8]) -> Result<Vec<(Node, Vec<u8>)>, Failure> {
        let (mut batch, mut below) = (Vec::new(), Vec::new());
        let files = self.files;
        let walked = files.read_dir(node, &mut |entry| {
            if interrupt::is_requested() {
                return Err(leeward_files::Error::Cancelled);
            }
            batch.push(entry);
            if batch.len() >= SORTED_MAX {
                self.batch(&mut batch, path, &mut below);
            }
            Ok(Flow::Continue)
        });
        self.batch(&mut batch, path, &mut below);
        match walked {
            Err(leeward_files::Error::Cancelled) => Err(leeward_files::Error::Cancelled.into()),
            Err(error) => {
                self.complain(path, &error);
                Ok(below)
            }
            Ok(()) => Ok(below),
        }
    }

    fn batch(&mut self, batch: &mut Vec<Entry>, path: &[u8], below: &mut Vec<(Node, Vec<u8>)>) {
        batch.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in batch.drain(..) {
            let whole = [path, b"/", &entry.name].concat();
            match self.files.metadata(entry.node) {
                Err(error) => self.complain(&whole, &error),
                Ok(metadata) => {
                    self.show(entry.node, &whole, &entry.name, &metadata);
                    if metadata.file_type == FileType::Directory {
                        below.push((entry.node, whole));
                    }
                }
            }
        }
    }

    fn complain(&mut self, path: &[u8], error: &leeward_files::Error) {
        self.failed += 1;
        let path = names::shown(path);
        if self.output.is_json() {
            self.output.json_line(&json!({ "path": path, "problem": error.to_string() }));
        }
        eprintln!("leeward: {path}: {error}");
    }

    fn show(&mut self, node: Node, path: &[u8], name: &[u8], metadata: &Metadata) {
        let target = if metadata.file_type == FileType::Symlink {
            match self.files.read_link(node) {
                Ok(target) => Some(target),
                Err(error) => {
                    self.complain(path, &error);
                    None
                }
            }
        } else {
            None
        };
        if self.output.is_json() {
            self.output.json_line(&json(path, metadata, target.as_deref()));
            return;
        }
        let size = match metadata.device {
            Some((major, minor)) => format!("{major}, {minor}"),
            None => metadata.size.to_string(),
        };
        let target = target.map_or(String::new(), |target| format!(" -> {}", names::shown(&target)));
        self.output.line(format!(
            "{} {:>3} {:>5} {:>5} {size:>12} {} {}{target}",
            mode(metadata),
            metadata.links,
            metadata.uid,
            metadata.gid,
            time(metadata.modified.seconds),
            names::shown(name),
        ));
    }
}

/// One entry as JSON. Names that are no UTF-8 stand there a second time, byte by byte.
pub fn json(path: &[u8], metadata: &Metadata, target: Option<&[u8]>) -> Value {
    let mut value = json!({
        "path": String::from_utf8_lossy(path), "type": metadata.file_type, "size": metadata.size,
        "mode": format!("{:04o}", metadata.mode), "uid": metadata.uid, "gid": metadata.gid,
        "modified": metadata.modified, "links": metadata.links,
    });
    if std::str::from_utf8(path).is_err() {
        value["path_bytes"] = json!(path);
    }
    if let Some(target) = target {
        value["target"] = json!(String::from_utf8_lossy(target));
        if std::str::from_utf8(target).is_err() {
            value["target_bytes"] = json!(target);
        }
    }
    if let Some((major, minor)) = metadata.device {
        value["device"] = json!([major, minor]);
    }
    value
}

/// Type and permissions in ten letters.
fn mode(metadata: &Metadata) -> String {
    let letter = match metadata.file_type {
        FileType::File => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::Other => '?',
    };
    let mode = metadata.mode;
    let mut text = String::from(letter);
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// The moment in UTC, to the minute.
fn time(seconds: i64) -> String {
    Timestamp::from_second(seconds)
        .map_or_else(|_| format!("{seconds:>16}"), |time| time.strftime("%Y-%m-%d %H:%M").to_string())
}
