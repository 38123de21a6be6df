//! `leeward groups`: the moments at which machines were backed up.

use std::process::ExitCode;

use clap::Args;
use leeward_cloud::qemu::{Firmware, MachineDefinition};
use leeward_repository::{CaptureMode, Group, Repository};

use super::repository::RepositoryArgument;
use super::restore::Restorable;
use crate::failure::{Code, Failure};
use crate::output::{Output, printable};
use crate::size;

/// List the groups: snapshots of all disks of a machine, of one moment
#[derive(Args)]
pub struct GroupsArguments {
    /// Only those of a machine: the name that its images begin with
    machine: Option<String>,
}

/// Runs the verb.
pub fn run(
    arguments: &GroupsArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let repository = repository.open()?;
    let mut groups = repository.groups()?;
    groups.retain(|group| arguments.machine.as_ref().is_none_or(|machine| machine_of(group) == machine));
    if groups.is_empty() {
        output.line("No groups. Back a running machine up with: leeward backup qmp:SOCKET IMAGE");
    } else {
        output.line(format!(
            "{:<14} {:<24} {:<21} {:>5} {:>10}",
            "GROUP", "MACHINE", "CREATED", "DISKS", "SIZE"
        ));
    }
    for group in &groups {
        let bytes: u64 = group.members.iter().map(|(_, entry)| entry.virtual_size).sum();
        if output.is_json() {
            let members: Vec<_> = group
                .members
                .iter()
                .map(|(image, entry)| serde_json::json!({ "image": image, "snapshot": entry.id }))
                .collect();
            output.json_line(&serde_json::json!({
                "group": group.id, "machine": machine_of(group), "created": group.created.to_string(),
                "virtual_size": bytes, "members": members,
            }));
        }
        output.line(format!(
            "{:<14} {:<24} {:<21} {:>5} {:>10}",
            &group.id[..group.id.len().min(12)],
            machine_of(group),
            group.created.strftime("%Y-%m-%d %H:%M:%SZ"),
            group.members.len(),
            size::show(bytes)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The name of the machine: what the images of the group have before their last part.
pub fn machine_of(group: &Group) -> &str {
    let first = group.members.first().map_or("", |(image, _)| image.as_str());
    first.rsplit_once('/').map_or(first, |(machine, _)| machine)
}

/// The group that a person means: the first digits of its identity, `MACHINE`, `MACHINE@latest` or `MACHINE@~N`.
pub fn resolve(repository: &Repository, wanted: &str) -> Result<Group, Failure> {
    let missing = |what: String| {
        Failure::new(Code::NotFound, what).hint("see what there is with: leeward groups, leeward images")
    };
    let mut groups = repository.groups()?;
    let (machine, which) = wanted.split_once('@').unwrap_or((wanted, "latest"));
    let is_machine = groups.iter().any(|group| machine_of(group) == machine);
    if is_machine {
        groups.retain(|group| machine_of(group) == machine);
    }
    let digits = match (wanted.contains('@'), is_machine) {
        (true, false) => return Err(missing(format!("there is no group of a machine {machine}"))),
        (true, true) => which,
        (false, true) => "latest",
        (false, false) => wanted,
    };
    let back = match digits {
        "latest" => Some(0),
        other => other.strip_prefix('~').and_then(|count| count.parse::<usize>().ok()),
    };
    if let Some(back) = back {
        let count = groups.len();
        return groups
            .into_iter()
            .rev()
            .nth(back)
            .ok_or_else(|| missing(format!("{machine} has {count} groups, not {}", back + 1)));
    }
    let is_prefix = digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let prefix = digits.to_ascii_lowercase();
    groups.retain(|group| is_prefix && group.id.starts_with(&prefix));
    match groups.len() {
        0 => Err(missing(format!("there is no group {wanted}"))),
        1 => groups.pop().ok_or_else(|| missing(format!("there is no group {wanted}"))),
        count => Err(Failure::new(Code::Usage, format!("{wanted} could be any of {count} groups"))
            .hint("give more digits")),
    }
}

/// Shows a group: the machine, and how each disk was captured.
pub fn show(repository: &Repository, wanted: &str, output: &Output) -> Result<ExitCode, Failure> {
    let found = Restorable::load(repository, wanted)?;
    if output.is_json() {
        let disks: Vec<_> = found
            .members
            .iter()
            .map(|member| {
                serde_json::json!({
                    "name": member.name, "image": member.image, "snapshot": member.id,
                    "virtual_size": member.snapshot.virtual_size, "consistency": member.snapshot.consistency,
                    "capture": member.snapshot.capture, "statistics": member.snapshot.statistics,
                    "definition": member.definition,
                })
            })
            .collect();
        output.json_line(&serde_json::json!({
            "group": found.group.id, "machine": found.machine(), "created": found.group.created.to_string(),
            "consistency": found.consistency(), "missing": found.missing, "disks": disks,
            "definition": found.stored_definition, "definition_flaw": found.flaw,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    output.line(format!("group        {}", found.group.id));
    output.line(format!("machine      {}", found.machine()));
    output.line(format!("created      {}", found.group.created.strftime("%Y-%m-%d %H:%M:%SZ")));
    output.line(format!("consistency  {}", found.consistency()));
    match (&found.definition, &found.flaw) {
        (Some(definition), _) => show_definition(definition, output),
        (None, Some(flaw)) => output.line(format!("definition   cannot be read: {flaw}")),
        (None, None) => output.line("definition   none was kept: only disks can be restored"),
    }
    for member in &found.members {
        let attached = member.definition.as_ref().map_or_else(String::new, |disk| {
            let boot = disk.boot_index.map_or_else(String::new, |index| format!(", boot index {index}"));
            format!(", {}{boot}", printable(&disk.bus))
        });
        let snapshot = &member.snapshot;
        output.line(format!("disk         {}: {}{attached}", member.name, size::show(snapshot.virtual_size)));
        output.line(format!("             snapshot {}", member.label()));
        if let Some(location) = member.definition.as_ref().and_then(|disk| disk.location.as_deref()) {
            output.line(format!(
                "             was {} on {}",
                printable(location),
                printable(&snapshot.source.host)
            ));
        }
        if let Some(capture) = &snapshot.capture {
            let read = size::show(snapshot.statistics.read_bytes);
            output.line(match (capture.mode, &capture.reason) {
                (CaptureMode::Incremental, _) => format!("             incremental, read {read}"),
                (CaptureMode::Full, None) => format!("             full, read {read}"),
                (CaptureMode::Full, Some(reason)) => {
                    format!("             full, read {read}: {}", printable(reason))
                }
            });
        }
    }
    for missing in &found.missing {
        output.line(format!("disk         {}: its snapshot was forgotten", printable(missing)));
    }
    output.line(format!(
        "restore      leeward restore {} --as NAME --dir DIR",
        &found.group.id[..12.min(found.group.id.len())]
    ));
    Ok(ExitCode::SUCCESS)
}

fn show_definition(definition: &MachineDefinition, output: &Output) {
    let text = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), printable);
    output.line(format!(
        "type         {} of {} {}, {}",
        text(&definition.machine_type),
        printable(&definition.provider),
        printable(&definition.version),
        printable(&definition.architecture)
    ));
    output.line(format!("identity     {}, name {}", text(&definition.uuid), text(&definition.name)));
    output.line(format!("memory       {}", size::show(definition.memory_bytes)));
    output.line(format!("cpus         {} ({})", definition.cpus, text(&definition.cpu_type)));
    output.line(match &definition.firmware {
        Firmware::Bios => "firmware     BIOS".to_owned(),
        Firmware::Flash { code, variables } => {
            format!("firmware     UEFI: {}, variables {}", text(code), text(variables))
        }
    });
    for nic in &definition.nics {
        output.line(format!("network      {} {}", printable(&nic.model), printable(&nic.mac)));
    }
}
