//! `leeward restore IMAGE --target NAME`: a volume, made by a site's daemon from its own repository.

use std::process::ExitCode;

use clap::Args;
use leeward_runs::RunId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::output::Output;
use crate::place_of_site::{SiteArgument, failure};
use crate::size;

/// What concerns volumes that a site makes.
#[derive(Args)]
#[command(next_help_heading = "Volumes of a site")]
pub struct AtSiteArguments {
    /// Restore to a new volume of this target, as the site calls it: its daemon does it, from its own repository
    #[arg(
        long = "target",
        value_name = "NAME",
        conflicts_with_all = ["target", "output_format", "onto", "verify", "force", "no_sync", "threads", "name", "in_place", "disks"]
    )]
    pub site_target: Option<String>,
    /// What the volume is called [default: as the image]
    #[arg(long, value_name = "NAME", requires = "site_target")]
    volume_name: Option<String>,
    /// Availability domain, counted from 1; 0 is any
    #[arg(long, value_name = "NUMBER", requires = "site_target")]
    ad_number: Option<u32>,
    /// The provider's backup policy for the volume: its name or id; empty for none
    #[arg(long, value_name = "POLICY", requires = "site_target")]
    backup_policy: Option<String>,
    /// Performance of the volume when the restore is over
    #[arg(long, value_name = "NUMBER", requires = "site_target")]
    vpus_per_gb: Option<u32>,
    /// The provider's key that encrypts the volume
    #[arg(long, value_name = "ID", requires = "site_target")]
    kms_key: Option<String>,
    /// What errors in a file system lead to: hold, fail or warn [default: warn, as a machine may have run]
    #[arg(long, value_name = "WHAT", value_parser = ["hold", "fail", "warn"], requires = "site_target")]
    filesystem_errors: Option<String>,
    /// Move the backup of the partition table to the end of a larger volume
    #[arg(long, requires = "site_target")]
    move_gpt: bool,
    /// Wait until it has ended, and end with 0 only where it succeeded
    #[arg(short, long, requires = "site_target")]
    wait: bool,
    #[command(flatten)]
    site: SiteArgument,
}

/// What a site says of a run about a snapshot.
#[derive(Deserialize, Serialize)]
pub struct Begun {
    /// The run, where there is one.
    pub run: Option<RunId>,
    new: bool,
    image: String,
    snapshot: String,
    time: String,
    virtual_bytes: u64,
    data_bytes: u64,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Begun {
    /// Which snapshot it is about, for people.
    pub fn label(&self) -> String {
        format!("{}@{}", self.image, self.snapshot.chars().take(8).collect::<String>())
    }

    /// What else the site says.
    pub fn text(&self, name: &str) -> &str {
        self.more.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// Says what came of it; waits for the run where that is asked.
    pub fn tell(
        &self,
        site: &SiteArgument,
        (wait, what): (bool, &str),
        output: &Output,
    ) -> Result<ExitCode, Failure> {
        let Some(run) = &self.run else {
            if output.is_json() {
                let mut value = serde_json::to_value(self).unwrap_or_default();
                value["dry_run"] = Value::Bool(true);
                output.json_line(&value);
            }
            output.line(format!(
                "Would {what}: a disk of {}, {} of data, of {}",
                size::show(self.virtual_bytes),
                size::show(self.data_bytes),
                self.time
            ));
            return Ok(ExitCode::SUCCESS);
        };
        output.line(format!("Run {run} {}", if self.new { "is begun" } else { "was begun before" }));
        if wait {
            return crate::verb::runs::wait(&site.client()?, run, output);
        }
        if output.is_json() {
            output.json_line(self);
        }
        output.line(format!("See it with: leeward run show {run}"));
        Ok(ExitCode::SUCCESS)
    }
}

/// An image, and which of its snapshots is meant where that is said.
pub fn split(snapshot: &str) -> (&str, Option<&str>) {
    snapshot.split_once('@').map_or((snapshot, None), |(image, which)| (image, Some(which)))
}

/// Has a site restore a snapshot.
pub fn restore(
    arguments: &AtSiteArguments,
    target: &str,
    snapshot: &str,
    dry_run: bool,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let mut options = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            options.insert(name.to_owned(), value);
        }
    };
    set("ad_number", arguments.ad_number.map(Value::from));
    set("backup_policy", arguments.backup_policy.clone().map(Value::from));
    set("vpus_per_gb", arguments.vpus_per_gb.map(Value::from));
    set("kms_key", arguments.kms_key.clone().map(Value::from));
    set("filesystem_errors", arguments.filesystem_errors.clone().map(Value::from));
    set("move_gpt", arguments.move_gpt.then_some(Value::Bool(true)));
    let (image, which) = split(snapshot);
    let request = json!({
        "image": image, "snapshot": which, "target": target, "name": arguments.volume_name,
        "dry_run": dry_run, "options": options,
    });
    let client = arguments.site.client()?;
    let begun: Begun = client.post("/v1/restores", &request).map_err(failure)?;
    let what = format!("restore {} to a volume of target {target}", begun.label());
    begun.tell(&arguments.site, (arguments.wait, &what), output)
}
