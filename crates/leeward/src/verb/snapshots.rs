//! `leeward images`, `log`, `show`, `diff`: what is in a repository.

mod graph;

use std::process::ExitCode;

use clap::Args;
use leeward_repository::{
    Difference, ForgottenSnapshot, ImageName, ImageRef, Repository, SnapshotEntry, SnapshotSpec, Which,
};

use super::repository::RepositoryArgument;
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::size;

/// List the images and their last snapshots
pub fn images(repository: &RepositoryArgument, output: &Output) -> Result<ExitCode, Failure> {
    let repository = repository.open()?;
    let mut shown = 0;
    for name in repository.images()? {
        let image = repository.image(&name)?;
        let last = image.snapshots.last();
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "image": name, "snapshots": image.snapshots.len(), "last": last,
            }));
        }
        if shown == 0 {
            output.line(format!("{:<32} {:>9} {:>10}  {}", "IMAGE", "SNAPSHOTS", "SIZE", "LAST"));
        }
        output.line(format!(
            "{:<32} {:>9} {:>10}  {}",
            name,
            image.snapshots.len(),
            last.map_or_else(|| "-".to_owned(), |entry| size::show(entry.virtual_size)),
            last.map_or_else(|| "-".to_owned(), time),
        ));
        shown += 1;
    }
    if shown == 0 {
        output.line("No images yet. Back a disk up with: leeward backup DISK IMAGE");
    }
    Ok(ExitCode::SUCCESS)
}

fn time(entry: &SnapshotEntry) -> String {
    entry.created.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// List the snapshots of an image, newest first
#[derive(Args)]
pub struct LogArguments {
    /// The image
    image: ImageName,
    /// Draw which snapshot went on from which: concurrent backups of one image are several heads
    #[arg(long)]
    graph: bool,
    /// List those that were forgotten and can be brought back
    #[arg(long)]
    forgotten: bool,
}

/// Runs `log`.
pub fn log(
    arguments: &LogArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let repository = repository.open()?;
    let image = repository.image(&arguments.image)?;
    if arguments.graph {
        return log_graph(&repository, &image.snapshots, output);
    }
    if arguments.forgotten {
        return log_forgotten(&image, output);
    }
    if !image.snapshots.is_empty() {
        output.line(format!("{:<14} {:<21} {:>10}  {}", "SNAPSHOT", "CREATED", "SIZE", "TAGS AND HOLDS"));
    }
    for entry in image.snapshots.iter().rev() {
        if output.is_json() {
            output.json_line(entry);
        }
        output.line(row(entry));
    }
    Ok(ExitCode::SUCCESS)
}

/// A snapshot as a line of `log`.
fn row(entry: &SnapshotEntry) -> String {
    let tags = entry.tags.iter().map(|(name, value)| match value.as_str() {
        "" => name.clone(),
        value => format!("{name}={value}"),
    });
    let holds = entry.holds.iter().map(|hold| format!("held:{}", hold.name));
    format!(
        "{:<14} {:<21} {:>10}  {}",
        entry.id.short(),
        time(entry),
        size::show(entry.virtual_size),
        tags.chain(holds).collect::<Vec<_>>().join(" ")
    )
}

/// The snapshots with what they went on from, as their manifests say. Parents that are not kept are left out of the
/// drawing.
fn log_graph(
    repository: &Repository,
    entries: &[SnapshotEntry],
    output: &Output,
) -> Result<ExitCode, Failure> {
    let mut vertices = Vec::with_capacity(entries.len());
    let mut parents = Vec::with_capacity(entries.len());
    for entry in entries {
        let all = repository.snapshot(entry.id)?.parents;
        let kept = all.iter().copied().filter(|id| entries.iter().any(|other| other.id == *id)).collect();
        vertices.push(graph::Vertex { id: entry.id, parents: kept });
        parents.push(all);
    }
    let heads = graph::heads(&vertices);
    for line in graph::draw(&vertices) {
        let Some(rank) = line.vertex else {
            output.line(&line.drawing);
            continue;
        };
        let entry = &entries[rank];
        if output.is_json() {
            let mut value =
                serde_json::json!({ "parents": parents[rank], "head": heads.contains(&entry.id) });
            if let (Some(fields), Ok(serde_json::Value::Object(known))) =
                (value.as_object_mut(), serde_json::to_value(entry))
            {
                fields.extend(known);
            }
            output.json_line(&value);
        }
        output.line(format!("{}{}", line.drawing, row(entry)));
    }
    Ok(ExitCode::SUCCESS)
}

fn log_forgotten(image: &ImageRef, output: &Output) -> Result<ExitCode, Failure> {
    if !image.forgotten.is_empty() {
        output.line(format!("{:<14} {:<21} {:<21}  {}", "SNAPSHOT", "CREATED", "FORGOTTEN", "ON"));
    }
    for ForgottenSnapshot { entry, forgetting } in image.forgotten.iter().rev() {
        if output.is_json() {
            output.json_line(&serde_json::json!({"snapshot": entry, "forgotten": forgetting}));
        }
        let at = forgetting.at.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        output.line(format!("{:<14} {:<21} {:<21}  {}", entry.id.short(), time(entry), at, forgetting.by));
    }
    Ok(ExitCode::SUCCESS)
}

/// Show a snapshot, or a group: the machine, its disks, and how they were captured
#[derive(Args)]
pub struct ShowArguments {
    /// The snapshot: IMAGE, IMAGE@~1, IMAGE@DIGEST, IMAGE@TIME or IMAGE@TAG; or the group: MACHINE, MACHINE@~1, or the
    /// first digits of its identity
    snapshot: SnapshotSpec,
}

/// Runs `show`.
pub fn show(
    arguments: &ShowArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let repository = repository.open()?;
    let entry = match repository.resolve(&arguments.snapshot) {
        Err(leeward_repository::Error::NoImage { .. }) if is_group(&repository, &arguments.snapshot)? => {
            return super::groups::show(&repository, &text(&arguments.snapshot), output);
        }
        found => found?,
    };
    let snapshot = repository.snapshot(entry.id)?;
    if output.is_json() {
        output.json_line(&serde_json::json!({
            "id": entry.id, "tags": entry.tags, "holds": entry.holds, "manifest": snapshot,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    let statistics = &snapshot.statistics;
    output.line(format!("snapshot     {}", entry.id));
    output.line(format!("image        {}", snapshot.image));
    output.line(format!("created      {}", snapshot.created));
    output.line(format!(
        "disk         {} ({} bytes)",
        size::show(snapshot.virtual_size),
        snapshot.virtual_size
    ));
    output.line(format!("data         {}", size::show(statistics.data_bytes)));
    output.line(format!("new          {}", size::show(statistics.new_bytes)));
    output.line(format!("stored       {}", size::show(statistics.stored_bytes)));
    let parents: Vec<String> = snapshot.parents.iter().map(|parent| parent.short()).collect();
    output.line(format!(
        "parents      {}",
        if parents.is_empty() { "none".to_owned() } else { parents.join(", ") }
    ));
    let source = &snapshot.source;
    output.line(format!("source       {} ({}) on {}", source.location, source.format, source.host));
    output.line(format!("consistency  {}", snapshot.consistency.name()));
    for (name, value) in &entry.tags {
        output.line(format!("tag          {name}{}{value}", if value.is_empty() { "" } else { "=" }));
    }
    for hold in &entry.holds {
        output.line(format!("hold         {}: {} (since {})", hold.name, hold.reason, hold.created));
    }
    output.line(format!(
        "tree         {}",
        snapshot.root.map_or_else(|| "all zeros".to_owned(), |root| root.to_string())
    ));
    output.line(format!("made by      {}", snapshot.tool));
    Ok(ExitCode::SUCCESS)
}

/// Whether the part before `@` names a machine of which there are groups, or begins the identity of one.
fn is_group(repository: &Repository, spec: &SnapshotSpec) -> Result<bool, Failure> {
    let name = spec.image.as_str();
    let groups = repository.groups()?;
    Ok(groups.iter().any(|group| super::groups::machine_of(group) == name || group.id.starts_with(name)))
}

fn text(spec: &SnapshotSpec) -> String {
    match &spec.which {
        Which::Back(0) => spec.image.to_string(),
        Which::Back(count) => format!("{}@~{count}", spec.image),
        Which::Text(text) => format!("{}@{text}", spec.image),
    }
}

/// Show where two snapshots differ, found through their trees without reading data
#[derive(Args)]
pub struct DiffArguments {
    /// One snapshot
    a: SnapshotSpec,
    /// The other; without it the one before A
    b: Option<SnapshotSpec>,
}

/// Runs `diff`. Exit code 3 when they differ.
pub fn diff(
    arguments: &DiffArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let repository = repository.open()?;
    let a = repository.resolve(&arguments.a)?;
    let b = match &arguments.b {
        Some(b) => repository.resolve(b)?.id,
        None => {
            let image = repository.image(&arguments.a.image)?;
            let place = image.snapshots.iter().position(|entry| entry.id == a.id).unwrap_or(0);
            let before = place.checked_sub(1).and_then(|place| image.snapshots.get(place));
            before
                .ok_or_else(|| {
                    Failure::new(Code::NotFound, format!("{} is the first of its image", a.id.short()))
                        .hint("give a second snapshot")
                })?
                .id
        }
    };
    let (a, b) = (repository.snapshot(a.id)?, repository.snapshot(b)?);
    let (mut extents, mut bytes) = (0_u64, 0);
    repository.diff(&a, &b, |Difference { offset, length }| {
        extents += 1;
        bytes += length;
        if output.is_json() {
            output.json_line(&Difference { offset, length });
        } else {
            output.line(format!("{offset:>16} {length:>14}"));
        }
    })?;
    if a.virtual_size != b.virtual_size {
        output.line(format!("sizes differ: {} and {} bytes", a.virtual_size, b.virtual_size));
    }
    output.line(format!("{extents} extents differ, {} in all", size::show(bytes)));
    let equal = extents == 0 && a.virtual_size == b.virtual_size;
    Ok(if equal { ExitCode::SUCCESS } else { Code::Differs.into() })
}
