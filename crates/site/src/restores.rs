//! Restores: a snapshot of the repository becomes a volume of a target.

use jiff::Timestamp;
use leeward_import::job::{RestoreInputs, restore_plan};
use leeward_repository::{ImageName, SnapshotEntry, SnapshotSpec};
use leeward_runs::state::Inserted;
use leeward_runs::{Plan, Run, RunId};
use serde::{Deserialize, Serialize};

use crate::config::TargetKind;
use crate::{Error, ImportOptions, Result, Site};

/// Which snapshot is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotAsked {
    /// The image.
    pub image: ImageName,
    /// The whole digest of the snapshot.
    pub snapshot: String,
    /// When its backup began.
    pub time: Timestamp,
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_bytes: u64,
    /// Bytes of the disk that hold something.
    pub data_bytes: u64,
}

/// What a person asks to be restored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestoreRequest {
    /// The image.
    pub image: String,
    /// Which of its snapshots, as behind the `@` of `IMAGE@SPEC`; the last one where absent.
    pub snapshot: Option<String>,
    /// Name of the target.
    pub target: String,
    /// What the volume is called; as the image where absent.
    pub name: Option<String>,
    /// Whether to say only what would be restored.
    pub dry_run: bool,
    /// More about the volume.
    pub options: ImportOptions,
}

/// What a restore is about, and the run that does it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoreBegun {
    /// The run; none where only was asked what it would do.
    pub run: Option<RunId>,
    /// Whether it is new.
    pub new: bool,
    /// What is restored.
    #[serde(flatten)]
    pub snapshot: SnapshotAsked,
    /// The target.
    pub target: String,
}

impl Site {
    /// Begins a restore. `by` says who asked; under the same `unique` key it is begun once only.
    ///
    /// # Errors
    /// There is no such snapshot, target or repository, a worker writes the target's volumes, or the state fails.
    pub fn restore(&self, request: &RestoreRequest, by: &str, unique: Option<&str>) -> Result<RestoreBegun> {
        let target = &request.target;
        let configured = self.config().targets.get(target);
        let configured =
            configured.ok_or_else(|| Error::NotFound(format!("this site has no target {target}")))?;
        if configured.worker.is_some() {
            return Err(Error::Invalid(format!(
                "volumes of target {target} are written by a worker, and workers cannot read the repository: name a target that \
                 the daemon itself writes"
            )));
        }
        if configured.kind == TargetKind::Repository {
            return Err(Error::Invalid(format!(
                "target {target} is the repository, where the snapshot is already: name a target that makes volumes"
            )));
        }
        let options = &request.options;
        if request.name.is_some() && options.volume_name.is_some() {
            return Err(Error::Invalid("the volume is named twice: by name and by volume_name".to_owned()));
        }
        if options.display_name.is_some() {
            return Err(Error::Invalid(
                "display_name is that of a worker, and a restore has none".to_owned(),
            ));
        }
        let snapshot = self.snapshot_asked(&request.image, request.snapshot.as_deref())?;
        let inputs = RestoreInputs {
            image: snapshot.image.to_string(),
            snapshot: snapshot.snapshot.clone(),
            target: target.clone(),
            volume_name: request.name.clone().or_else(|| options.volume_name.clone()),
            ad_number: options.ad_number,
            backup_policy: options.backup_policy.clone(),
            vpus_per_gb: options.vpus_per_gb,
            kms_key: options.kms_key.clone(),
            filesystem_errors: options.filesystem_errors,
            move_gpt: options.move_gpt,
        };
        let plan = restore_plan(&inputs);
        let target = target.clone();
        if request.dry_run {
            return Ok(RestoreBegun { run: None, new: false, snapshot, target });
        }
        let (run, new, snapshot) = self.begin_with_snapshot(snapshot, plan, &inputs, by, unique)?;
        Ok(RestoreBegun { run: Some(run), new, snapshot, target })
    }

    /// Which snapshot a text means.
    pub(crate) fn snapshot_asked(&self, image: &str, which: Option<&str>) -> Result<SnapshotAsked> {
        let invalid = |error: leeward_repository::Error| Error::Invalid(error.to_string());
        let image: ImageName = image.parse().map_err(invalid)?;
        let spec = format!("{image}@{}", which.unwrap_or("latest"));
        let spec: SnapshotSpec = spec.parse().map_err(|error| {
            // What no snapshot can be called is called so by none.
            let error: leeward_repository::Error = error;
            Error::NotFound(error.to_string())
        })?;
        let repository = self.repository()?;
        let entry: SnapshotEntry = repository.resolve(&spec).map_err(|error| match error.kind() {
            leeward_repository::ErrorKind::Usage => Error::Invalid(error.to_string()),
            _ => error.into(),
        })?;
        Ok(SnapshotAsked {
            image,
            snapshot: entry.id.to_string(),
            time: entry.created,
            virtual_bytes: entry.virtual_size,
            data_bytes: repository.snapshot(entry.id)?.statistics.data_bytes,
        })
    }

    /// Begins a run about a snapshot; returns it, whether it is new, and the snapshot, which is that of the run that is there
    /// already.
    pub(crate) fn begin_with_snapshot(
        &self,
        snapshot: SnapshotAsked,
        plan: Plan,
        inputs: &impl Serialize,
        by: &str,
        unique: Option<&str>,
    ) -> Result<(RunId, bool, SnapshotAsked)> {
        let now = self.runs().state().now()?;
        let id = RunId::new(now).map_err(leeward_runs::Error::Random)?;
        let value = serde_json::to_value(inputs).map_err(|error| Error::Other(error.to_string()))?;
        let subject = format!("{}@{}", snapshot.image, &snapshot.snapshot[..snapshot.snapshot.len().min(8)]);
        let run = Run::new(id.clone(), &subject, plan, value, by, now);
        match self.runs().begin(&run, unique)? {
            Inserted::New => Ok((id, true, snapshot)),
            Inserted::Exists(found) => {
                let snapshot = self.snapshot_of(&found, &run)?;
                Ok((found, false, snapshot))
            }
        }
    }

    /// The snapshot of a run that was begun under the same key, if the same was asked for. Which snapshot is the last one may
    /// have changed since, and with it the name that an object has where none is given.
    fn snapshot_of(&self, found: &RunId, asked: &Run) -> Result<SnapshotAsked> {
        let known = self.runs().state().load(found)?.map(|(run, _)| run);
        let known = known.ok_or_else(|| leeward_runs::Error::NoRun(found.clone()))?;
        let same = |key: &str| known.inputs.get(key) == asked.inputs.get(key);
        let keys = ["image", "target", "bucket", "format", "volume_name", "replace"];
        if known.plan.kind != asked.plan.kind || !keys.into_iter().all(same) {
            let what = "it was begun under this idempotency key, and asked for something else".to_owned();
            return Err(leeward_runs::Error::NotNow { run: found.clone(), what }.into());
        }
        let text = |key: &str| known.inputs.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
        self.snapshot_asked(text("image"), Some(text("snapshot")))
    }
}
