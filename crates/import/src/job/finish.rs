//! `fsck_on_block_volume`, `update_performance_of_bv`, `setup_backup_policy`.

use std::path::Path;
use std::sync::Arc;

use leeward_cloud::provider::{Goal, Performance as Class, Progress, VolumeId};
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Outcome, Step};

use super::attach::{self, Devices};
use super::inspect::{Image, Seen};
use super::volume::{Made, Volumes};
use super::{Inputs, Places, Target, Verdict, fault};
use crate::filesystem::{self, CheckOptions, FileSystemReport};
use crate::metadata::BackupPolicy;
use crate::{VolumeTarget, gpt};

/// `fsck_on_block_volume`.
pub(super) struct Check(pub Arc<dyn Places>);

impl Step for Check {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs: Inputs = context.inputs()?;
        let image: Image = context.needed("download_image_from_bucket")?;
        let volumes: Volumes = context.needed("create_block_volume")?;
        let devices: Devices = context.needed("wait_for_attachment")?;
        let target = self.0.target(&volumes.target).map_err(fault::of_place)?;
        let verdict = inputs.filesystem_errors.unwrap_or(target.filesystem_errors);
        let seen: Seen = context.needed("get_file_head")?;
        let move_gpt = inputs.move_gpt.or(seen.wishes.move_gpt).unwrap_or(target.move_gpt);
        let mut reports = Vec::new();
        let disks = image.disks.iter().zip(&volumes.volumes).zip(&devices.devices);
        for (number, ((disk, volume), device)) in disks.enumerate() {
            attach::confirm(context, &target, number, &volume.id, device)?;
            if move_gpt && volume.bytes > disk.virtual_bytes {
                move_backup(context, device)?;
            }
            reports.push(check(context, device, volume)?);
        }
        judge(context, &reports, verdict)?;
        Outcome::done(&serde_json::json!({ "volumes": reports }))
    }
}

fn move_backup(context: &Context, device: &Path) -> Result<(), Fault> {
    let target = VolumeTarget::open(device, 0).map_err(|error| fault::of_import(&error))?;
    let moved = gpt::move_backup(&target).map_err(|error| fault::of_import(&error))?;
    context.say(match moved {
        gpt::Moved::NoTable => "there is no GPT whose backup could be moved".to_owned(),
        gpt::Moved::InPlace => "the backup of the GPT is at the end already".to_owned(),
        gpt::Moved::Moved { from_sector, to_sector, .. } => {
            format!("the backup of the GPT is moved from sector {from_sector} to the end, sector {to_sector}")
        }
    });
    Ok(())
}

fn check(context: &Context, device: &Path, volume: &Made) -> Result<FileSystemReport, Fault> {
    let watching = fault::Watching { context, note: "checking file systems" };
    let report = filesystem::check(device, &CheckOptions::default(), &watching)
        .map_err(|error| fault::of_import(&error))?;
    context.say(format!("volume {}: table {}", volume.id, report.table));
    report.problems.iter().for_each(|problem| context.log(Level::Warning, problem));
    report.confinement.iter().for_each(|note| context.say(note));
    for part in &report.volumes {
        tell(context, part);
    }
    Ok(report)
}

fn tell(context: &Context, part: &filesystem::VolumeReport) {
    use filesystem::Verdict;
    let kind = part.file_system.as_deref().unwrap_or("no known file system");
    let (level, what) = match &part.verdict {
        Verdict::Clean => (Level::Info, "clean".to_owned()),
        Verdict::Errors => (Level::Error, "has errors".to_owned()),
        Verdict::Unknown { what } => (Level::Info, what.clone()),
        Verdict::ToolMissing { tool, package } => {
            (Level::Warning, format!("not checked: {tool} is not here; install Debian's package {package}"))
        }
        Verdict::NotChecked { why } => (Level::Warning, format!("not checked: {why}")),
    };
    context.log(level, &format!("{} ({kind}, {} bytes): {what}", part.id, part.bytes));
    if let Some(command) = part.command.as_ref().filter(|_| level != Level::Info) {
        context.log(level, &format!("{command}:\n{}", part.output));
    }
}

fn judge(context: &Context, reports: &[FileSystemReport], verdict: Verdict) -> Result<(), Fault> {
    if !reports.iter().any(FileSystemReport::has_errors) {
        return Ok(());
    }
    let what =
        "a file system on the volume has errors; they were in the image, as all its bytes were compared";
    match verdict {
        Verdict::Warn => {
            context.log(Level::Warning, what);
            Ok(())
        }
        Verdict::Hold => Err(Fault::lasting(
            what,
            "see the log of this step; skip the step to accept the volume as it is, or cancel the run to remove it",
        )),
        Verdict::Fail => Err(Fault::lasting(
            what,
            "see the log of this step; repair the image, or import it with filesystem_errors = \"hold\" or \"warn\"",
        )
        .and_undo()),
    }
}

/// `update_performance_of_bv`.
pub(super) struct Performance(pub Arc<dyn Places>);

impl Step for Performance {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs: Inputs = context.inputs()?;
        let seen: Seen = context.needed("get_file_head")?;
        let volumes: Volumes = context.needed("create_block_volume")?;
        let target = self.0.target(&volumes.target).map_err(fault::of_place)?;
        let wanted = inputs.vpus_per_gb.or(seen.wishes.vpus_per_gb).or(target.final_vpus);
        let Some(wanted) = wanted.map(Class::VpusPerGb) else {
            return Ok(Outcome::Skipped("no performance is configured for this target".to_owned()));
        };
        for volume in &volumes.volumes {
            target
                .cloud
                .volumes
                .set_performance(&volume.id, &wanted)
                .map_err(|error| fault::of_cloud(&error))?;
            wait_usable(context, &target, &volume.id)?;
            context.say(format!("volume {} has {wanted}", volume.id));
        }
        Outcome::done(&serde_json::json!({ "performance": wanted }))
    }
}

fn wait_usable(context: &Context, target: &Target, id: &VolumeId) -> Result<(), Fault> {
    let volumes = &target.cloud.volumes;
    loop {
        let volume = volumes.volume(id).map_err(|error| fault::of_cloud(&error))?;
        match volume.state.progress(Goal::Use) {
            Progress::Ready => return Ok(()),
            Progress::Changing => context.wait(volumes.poll_interval())?,
            Progress::Broken => {
                return Err(Fault::lasting(
                    format!("volume {id} is {}", volume.state.word),
                    "cancel the run and begin the import again",
                ));
            }
        }
    }
}

/// `setup_backup_policy`.
pub(super) struct Policy(pub Arc<dyn Places>);

impl Step for Policy {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs: Inputs = context.inputs()?;
        let seen: Seen = context.needed("get_file_head")?;
        let volumes: Volumes = context.needed("create_block_volume")?;
        let target = self.0.target(&volumes.target).map_err(fault::of_place)?;
        let wished = seen.wishes.backup_policy.map(|policy| match policy {
            BackupPolicy::None => String::new(),
            BackupPolicy::Named(name) => name,
        });
        let wanted = inputs.backup_policy.or(wished).or(target.backup_policy.clone());
        let Some(wanted) = wanted.filter(|name| !name.is_empty()) else {
            return Ok(Outcome::Skipped("no backup policy is configured".to_owned()));
        };
        let Some(policies) = &target.cloud.policies else {
            return Ok(Outcome::Skipped("the provider has no backup policies".to_owned()));
        };
        let policy = policies.policy(&wanted).map_err(|error| fault::of_cloud(&error))?;
        for volume in &volumes.volumes {
            policies.assign_policy(&volume.id, Some(&policy.id)).map_err(|error| fault::of_cloud(&error))?;
            context.say(format!("volume {} is backed up by policy {}", volume.id, policy.name));
        }
        Outcome::done(&serde_json::json!({ "policy": policy }))
    }
}
