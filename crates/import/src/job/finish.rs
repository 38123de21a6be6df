//! `fsck_on_block_volume`, `update_performance_of_bv`, `setup_backup_policy`.

use std::path::Path;
use std::sync::Arc;

use leeward_cloud::provider::{Device, Goal, Performance as Class, Progress, VolumeId};
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Outcome, Step};

use super::attach::{self, Devices};
use super::inspect::{self, Image, Seen};
use super::volume::{self, Made};
use super::{Inputs, Places, Target, Verdict, fault, vault, worker};
use crate::filesystem::{self, CheckOptions, FileSystemReport};
use crate::metadata::BackupPolicy;
use crate::work::{Bench, CheckWork, Ended, Kept, Work, check_disk, say_report};

/// `fsck_on_block_volume`.
pub(super) struct Check(pub Arc<dyn Places>);

impl Step for Check {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs = Inputs::of(context)?;
        let image: Image = context.needed("download_image_from_bucket")?;
        let volumes = volume::of_run(context)?;
        let target = self.0.target(&volumes.target).map_err(fault::of_place)?;
        let verdict = inputs.filesystem_errors.unwrap_or(target.filesystem_errors);
        let seen: Seen = context.needed("get_file_head")?;
        let move_gpt = inputs.move_gpt.or(seen.wishes.move_gpt).unwrap_or(target.move_gpt);
        if let Some(vault) = &target.vault {
            let mut reports = Vec::new();
            for (snapshot, report) in vault::check(context, vault, &volumes)? {
                say_report(&Here(context), &snapshot, &report);
                reports.push(report);
            }
            judge(context, &reports, verdict)?;
            return Outcome::done(&serde_json::json!({ "volumes": reports }));
        }
        if target.uploads().is_some() {
            return check_source(self.0.as_ref(), context, (&image, &volumes), move_gpt, verdict);
        }
        let devices: Devices = context.needed("wait_for_attachment")?;
        let mut reports = Vec::new();
        let disks = image.disks.iter().zip(&volumes.volumes).zip(&devices.devices);
        for (number, ((disk, volume), device)) in disks.enumerate() {
            let place = (number, volume, device.as_str());
            let device = attach::confirm(self.0.as_ref(), context, &target, place)?;
            let move_gpt = move_gpt && volume.bytes > disk.virtual_bytes;
            reports.push(match &target.worker {
                None => check_disk(&Here(context), volume.id.as_str(), &device, move_gpt)?,
                Some(_) => self.by_worker(context, &target, volume, device, move_gpt)?,
            });
        }
        judge(context, &reports, verdict)?;
        Outcome::done(&serde_json::json!({ "volumes": reports }))
    }
}

impl Check {
    fn by_worker(
        &self,
        context: &Context,
        target: &Target,
        volume: &Made,
        device: Device,
        move_gpt: bool,
    ) -> Result<FileSystemReport, Fault> {
        let work = Work::Check(CheckWork {
            volume: volume.id.to_string(),
            device: worker::device(device)?,
            move_gpt,
        });
        let keep = |_: &Kept| Err(worker::nonsense("a checkpoint, where there is none"));
        match worker::work(self.0.as_ref(), context, target, work, None, &keep)? {
            Ended::Checked(report) => Ok(report),
            _ => Err(worker::nonsense("that it has ended with something else")),
        }
    }
}

/// Where no volume can be read, its disk is checked in the object: the same bytes, as their digest has told.
fn check_source(
    places: &dyn Places,
    context: &Context,
    (image, volumes): (&Image, &volume::Volumes),
    move_gpt: bool,
    verdict: Verdict,
) -> Result<Outcome, Fault> {
    let opened = inspect::open(places, context, &image.expanded)?;
    let mut reports = Vec::new();
    for (disk, volume) in opened.disks.iter().zip(&volumes.volumes) {
        if move_gpt && volume.bytes > disk.virtual_size() {
            let what =
                format!("the backup of the GPT of volume {} is not moved: it cannot be written", volume.id);
            context.log(Level::Warning, &what);
        }
        let Some(source) = disk.source() else {
            let what = format!(
                "volume {} is not checked: its disk is compressed as a whole, and cannot be read here and there",
                volume.id
            );
            context.log(Level::Warning, &what);
            continue;
        };
        let watching = fault::Watching { context, note: "checking file systems" };
        let name = Path::new(&disk.identity().object);
        let report = filesystem::check_disk(&source, name, &CheckOptions::default(), &watching)
            .map_err(|error| fault::of_import(&error))?;
        context.say("the disk is checked where it lies: the volume cannot be read from here");
        say_report(&Here(context), volume.id.as_str(), &report);
        reports.push(report);
    }
    if reports.is_empty() {
        return Ok(Outcome::Skipped("no disk of the object can be read in any order".to_owned()));
    }
    judge(context, &reports, verdict)?;
    Outcome::done(&serde_json::json!({ "volumes": reports }))
}

/// A check that the daemon does itself.
struct Here<'a>(&'a Context);

impl Bench for Here<'_> {
    fn log(&self, level: Level, text: &str) {
        self.0.log(level, text);
    }

    fn progress(&self, note: &str, progress: crate::Progress) {
        self.0.progress(progress.done_bytes, Some(progress.total_bytes), note);
    }

    fn is_stopped(&self) -> bool {
        self.0.is_stopped()
    }

    fn keep(&self, _: &Kept) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
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
        let inputs = Inputs::of(context)?;
        let seen: Seen = context.needed("get_file_head")?;
        let volumes = volume::of_run(context)?;
        let target = self.0.target(&volumes.target).map_err(fault::of_place)?;
        let mut asked = inputs.vpus_per_gb.or(seen.wishes.vpus_per_gb).map(Class::VpusPerGb);
        if target.is_copied_with_tags()
            && let Some(asked) = asked.take()
        {
            context.log(Level::Warning, &format!("{asked} is asked for, which this provider does not have"));
        }
        let Some(wanted) = asked.or(target.final_performance.clone()) else {
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
        let inputs = Inputs::of(context)?;
        let seen: Seen = context.needed("get_file_head")?;
        let volumes = volume::of_run(context)?;
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
