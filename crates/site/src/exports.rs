//! Exports: a snapshot of the repository becomes an object in a bucket.

use leeward_import::job::{ExportFormat, ExportInputs, export_plan};
use leeward_runs::RunId;
use serde::{Deserialize, Serialize};

use crate::restores::SnapshotAsked;
use crate::{Error, Result, Site};

/// The longest name of an object, in bytes: what all services take.
const OBJECT_BYTES_MAX: usize = 1024;

/// What a person asks to be exported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExportRequest {
    /// The image.
    pub image: String,
    /// Which of its snapshots, as behind the `@` of `IMAGE@SPEC`; the last one where absent.
    pub snapshot: Option<String>,
    /// Name of the bucket.
    pub bucket: String,
    /// What the object is called; as the image, its snapshot and the format where absent.
    pub object: Option<String>,
    /// What the object is.
    pub format: ExportFormat,
    /// Whether an object that is there is replaced.
    pub replace: bool,
    /// Whether to say only what would be exported.
    pub dry_run: bool,
}

/// What an export is about, and the run that does it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportBegun {
    /// The run; none where only was asked what it would do.
    pub run: Option<RunId>,
    /// Whether it is new.
    pub new: bool,
    /// What is exported.
    #[serde(flatten)]
    pub snapshot: SnapshotAsked,
    /// The bucket.
    pub bucket: String,
    /// The object in it.
    pub object: String,
    /// What the object is.
    pub format: ExportFormat,
}

impl Site {
    /// Begins an export. `by` says who asked; under the same `unique` key it is begun once only.
    ///
    /// # Errors
    /// There is no such snapshot, bucket or repository, the object's name is none, or the state fails.
    pub fn export(&self, request: &ExportRequest, by: &str, unique: Option<&str>) -> Result<ExportBegun> {
        let bucket = &request.bucket;
        if !self.config().buckets.contains_key(bucket) {
            return Err(Error::NotFound(format!("this site has no bucket {bucket}")));
        }
        if let Some(object) = &request.object {
            check_object(bucket, object)?;
        }
        let snapshot = self.snapshot_asked(&request.image, request.snapshot.as_deref())?;
        let object = request.object.clone().unwrap_or_else(|| usual_name(&snapshot, request.format));
        // Under a key the object may be what the same request has made before.
        if !request.replace && unique.is_none() {
            self.check_free(bucket, &object)?;
        }
        let inputs = ExportInputs {
            image: snapshot.image.to_string(),
            snapshot: snapshot.snapshot.clone(),
            bucket: bucket.clone(),
            object: object.clone(),
            format: request.format,
            replace: request.replace,
        };
        let begun = ExportBegun {
            run: None,
            new: false,
            snapshot,
            bucket: bucket.clone(),
            object,
            format: request.format,
        };
        if request.dry_run {
            return Ok(begun);
        }
        let plan = export_plan(&inputs);
        let (run, new, snapshot) = self.begin_with_snapshot(begun.snapshot, plan, &inputs, by, unique)?;
        let object = if new { begun.object } else { self.object_of(&run)? };
        Ok(ExportBegun { run: Some(run), new, snapshot, object, bucket: begun.bucket, format: begun.format })
    }
}

impl Site {
    /// The object that an export writes.
    fn object_of(&self, run: &RunId) -> Result<String> {
        let known = self.runs().state().load(run)?.map(|(run, _)| run);
        let known = known.ok_or_else(|| leeward_runs::Error::NoRun(run.clone()))?;
        Ok(known.inputs.get("object").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned())
    }

    fn check_free(&self, name: &str, object: &str) -> Result<()> {
        let bucket = self.inner().places.bucket(name).map_err(Error::Other)?;
        match bucket.objects.head(object) {
            Ok(_) => {
                Err(Error::Exists(format!("bucket {name} has an object {object} already, which is kept")))
            }
            Err(error) if error.kind() == leeward_store::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn check_object(bucket: &str, object: &str) -> Result<()> {
    leeward_remote::objects::check_name(bucket, object).map_err(|error| Error::Invalid(error.to_string()))?;
    // A directory hides such names, and a bucket may be read as one.
    let is_hidden = object.split('/').any(|part| part.starts_with('.'));
    match object.len() > OBJECT_BYTES_MAX || is_hidden {
        true => Err(Error::Invalid(format!(
            "an object's name has at most {OBJECT_BYTES_MAX} bytes, and none of its parts begins with a dot"
        ))),
        false => Ok(()),
    }
}

fn usual_name(snapshot: &SnapshotAsked, format: ExportFormat) -> String {
    let image = snapshot.image.as_str().replace('/', "-");
    let short: String = snapshot.snapshot.chars().take(8).collect();
    format!("{image}-{short}.{}", format.ending())
}
