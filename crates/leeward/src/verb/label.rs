//! `leeward tag`, `hold`, `release`: what people say of a snapshot.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use leeward_repository::{SnapshotId, SnapshotSpec};

use super::repository::RepositoryArgument;
use crate::failure::{Code, Failure};
use crate::output::Output;

/// Reads `NAME` or `NAME=VALUE`.
pub fn parse_tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let sound = !name.is_empty()
        && name.len() <= 128
        && !name.contains(|c: char| c.is_control() || c.is_whitespace());
    if !sound || value.len() > 1024 || value.contains(|c: char| c.is_control()) {
        return Err(format!("{text:?} is not a tag: use NAME or NAME=VALUE, without spaces in the name"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Set or remove tags of a snapshot
#[derive(Args)]
pub struct TagArguments {
    /// The snapshot: IMAGE, IMAGE@~1, IMAGE@DIGEST, IMAGE@TIME or IMAGE@TAG
    snapshot: SnapshotSpec,
    /// Tags to set
    #[arg(value_name = "NAME[=VALUE]", value_parser = parse_tag)]
    tags: Vec<(String, String)>,
    /// Tag to remove; may be given several times
    #[arg(long, value_name = "NAME")]
    remove: Vec<String>,
}

/// Runs `tag`.
pub fn tag(
    arguments: &TagArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    if arguments.tags.is_empty() && arguments.remove.is_empty() {
        return Err(Failure::new(Code::Usage, "no tag is given").hint("leeward tag IMAGE@SPEC NAME[=VALUE]"));
    }
    let repository = repository.open()?;
    let entry = repository.resolve(&arguments.snapshot)?;
    let set: BTreeMap<String, String> = arguments.tags.iter().cloned().collect();
    let image = repository.tag(&arguments.snapshot.image, entry.id, &set, &arguments.remove)?;
    done(image.entry(entry.id), entry.id, "tagged", arguments.snapshot.image.as_str(), output);
    Ok(ExitCode::SUCCESS)
}

fn done(
    entry: Option<&leeward_repository::SnapshotEntry>,
    id: SnapshotId,
    what: &str,
    image: &str,
    output: &Output,
) {
    if output.is_json() {
        output.json_line(&entry);
    }
    output.line(format!("{image}@{} {what}", id.short()));
}

/// Hold a snapshot: it is not forgotten until the hold is released
#[derive(Args)]
pub struct HoldArguments {
    /// The snapshot: IMAGE, IMAGE@~1, IMAGE@DIGEST, IMAGE@TIME or IMAGE@TAG
    snapshot: SnapshotSpec,
    /// Name of the hold
    #[arg(long, default_value = "hold")]
    name: String,
    /// Why it is held
    #[arg(long, default_value = "")]
    reason: String,
}

/// Runs `hold`.
pub fn hold(
    arguments: &HoldArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let repository = repository.open()?;
    let entry = repository.resolve(&arguments.snapshot)?;
    let image = repository.hold(&arguments.snapshot.image, entry.id, &arguments.name, &arguments.reason)?;
    done(image.entry(entry.id), entry.id, "is held", arguments.snapshot.image.as_str(), output);
    Ok(ExitCode::SUCCESS)
}

/// Release a hold of a snapshot
#[derive(Args)]
pub struct ReleaseArguments {
    /// The snapshot: IMAGE, IMAGE@~1, IMAGE@DIGEST, IMAGE@TIME or IMAGE@TAG
    snapshot: SnapshotSpec,
    /// Name of the hold
    #[arg(long, default_value = "hold")]
    name: String,
}

/// Runs `release`.
pub fn release(
    arguments: &ReleaseArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let repository = repository.open()?;
    let entry = repository.resolve(&arguments.snapshot)?;
    let image = repository.release(&arguments.snapshot.image, entry.id, &arguments.name)?;
    done(image.entry(entry.id), entry.id, "is released", arguments.snapshot.image.as_str(), output);
    Ok(ExitCode::SUCCESS)
}
