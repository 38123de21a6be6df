//! `leeward upload`: a snapshot becomes an object in a bucket, by a site's daemon.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::restore::at_site::{Begun, split};
use crate::failure::Failure;
use crate::output::Output;
use crate::place_of_site::{SiteArgument, failure};

/// What an object can be.
const FORMATS: [&str; 7] = ["qcow2", "raw", "zst", "vmdk", "vhd", "vhd-fixed", "vhdx"];

/// Upload a snapshot to a bucket of a site, as an image that others can read
#[derive(Args)]
pub struct UploadArguments {
    /// The snapshot, of the site's repository: IMAGE, IMAGE@~1, IMAGE@DIGEST, IMAGE@TIME or IMAGE@TAG
    snapshot: String,
    /// The bucket, as the site calls it
    bucket: String,
    /// What the object is called [default: as the image, its snapshot and the format]
    object: Option<String>,
    /// Format of the object: qcow2, raw, zst (raw, compressed), vmdk (streamOptimized), vhd (dynamic), vhd-fixed (for Azure), or vhdx
    #[arg(short = 'O', long, value_name = "FORMAT", default_value = "qcow2", value_parser = FORMATS)]
    output_format: String,
    /// Replace an object that is there
    #[arg(long)]
    replace: bool,
    /// Show what would be uploaded, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Wait until it has ended, and end with 0 only where it succeeded
    #[arg(short, long)]
    wait: bool,
    #[command(flatten)]
    site: SiteArgument,
}

/// Runs the verb.
pub fn run(arguments: &UploadArguments, output: &Output) -> Result<ExitCode, Failure> {
    let (image, which) = split(&arguments.snapshot);
    let request = json!({
        "image": image, "snapshot": which, "bucket": arguments.bucket, "object": arguments.object,
        "format": arguments.output_format, "replace": arguments.replace, "dry_run": arguments.dry_run,
    });
    let begun: Begun = arguments.site.client()?.post("/v1/exports", &request).map_err(failure)?;
    let what = format!("upload {} to {}/{}", begun.label(), arguments.bucket, begun.text("object"));
    begun.tell(&arguments.site, (arguments.wait, &what), output)
}
