//! `leeward import`: disk images into volumes, by a site's daemon.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use leeward_remote::encode::component;
use leeward_runs::RunId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::output::{Output, printable};
use crate::place_of_site::{SiteArgument, failure};
use crate::size;

/// Make volumes of disk images that lie in a source of a site
#[derive(Args)]
pub struct ImportArguments {
    #[command(flatten)]
    site: SiteArgument,
    #[command(subcommand)]
    verb: ImportVerb,
}

#[derive(Subcommand)]
enum ImportVerb {
    /// Begin the import of an object
    Start(StartArguments),
    /// List the objects of a source
    Objects {
        /// The source, as the site calls it
        source: String,
        /// Only names that begin so
        #[arg(long, default_value = "")]
        prefix: String,
    },
    /// List what the site heard of objects, and what came of it
    Heard {
        /// How many at most
        #[arg(long, default_value_t = 50)]
        most: u32,
    },
}

#[derive(Args)]
struct StartArguments {
    /// The source, as the site calls it
    source: String,
    /// The object in it
    object: String,
    /// The target, as the site calls it [default: that of the source]
    #[arg(long)]
    target: Option<String>,
    /// Availability domain, counted from 1; 0 is any
    #[arg(long, value_name = "NUMBER")]
    ad_number: Option<u32>,
    /// What the volume is called [default: as the object]
    #[arg(long, value_name = "NAME")]
    volume_name: Option<String>,
    /// The provider's backup policy for the volume: its name or id; empty for none
    #[arg(long, value_name = "POLICY")]
    backup_policy: Option<String>,
    /// Performance of the volume when the import is over
    #[arg(long, value_name = "NUMBER")]
    vpus_per_gb: Option<u32>,
    /// The provider's key that encrypts the volume
    #[arg(long, value_name = "ID")]
    kms_key: Option<String>,
    /// What errors in a file system lead to: hold, fail or warn
    #[arg(long, value_name = "WHAT", value_parser = ["hold", "fail", "warn"])]
    filesystem_errors: Option<String>,
    /// Move the backup of the partition table to the end of a larger volume
    #[arg(long)]
    move_gpt: bool,
    /// Wait until it has ended, and end with 0 only where it succeeded
    #[arg(short, long)]
    wait: bool,
}

#[derive(Deserialize)]
struct Begun {
    run: RunId,
    new: bool,
}

#[derive(Deserialize)]
struct Objects {
    objects: Vec<Value>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Heard {
    hints: Vec<Value>,
}

/// Runs the verb.
pub fn run(arguments: &ImportArguments, output: &Output) -> Result<ExitCode, Failure> {
    let client = arguments.site.client()?;
    match &arguments.verb {
        ImportVerb::Start(start) => {
            let begun: Begun = client.post("/v1/imports", &request(start)).map_err(failure)?;
            output.line(format!(
                "Run {} {}",
                begun.run,
                if begun.new { "is begun" } else { "was begun before" }
            ));
            if start.wait {
                return super::runs::wait(&client, &begun.run, output);
            }
            if output.is_json() {
                output.json_line(&json!({ "run": begun.run, "new": begun.new }));
            }
            output.line(format!("See it with: leeward run show {}", begun.run));
            Ok(ExitCode::SUCCESS)
        }
        ImportVerb::Objects { source, prefix } => {
            let mut after = String::new();
            loop {
                let path = format!(
                    "/v1/sources/{}/objects?prefix={}&after={}",
                    component(source),
                    component(prefix),
                    component(&after)
                );
                let page: Objects = client.get(&path).map_err(failure)?;
                page.objects.iter().for_each(|object| show_object(object, output));
                match page.next {
                    Some(next) if next != after => after = next,
                    _ => return Ok(ExitCode::SUCCESS),
                }
            }
        }
        ImportVerb::Heard { most } => {
            let heard: Heard =
                client.get(&format!("/v1/heard?most={}", (*most).clamp(1, 1000))).map_err(failure)?;
            heard.hints.iter().for_each(|hint| show_hint(hint, output));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn request(start: &StartArguments) -> Value {
    let mut options = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            options.insert(name.to_owned(), value);
        }
    };
    set("ad_number", start.ad_number.map(Value::from));
    set("volume_name", start.volume_name.clone().map(Value::from));
    set("backup_policy", start.backup_policy.clone().map(Value::from));
    set("vpus_per_gb", start.vpus_per_gb.map(Value::from));
    set("kms_key", start.kms_key.clone().map(Value::from));
    set("filesystem_errors", start.filesystem_errors.clone().map(Value::from));
    set("move_gpt", start.move_gpt.then_some(Value::Bool(true)));
    json!({ "source": start.source, "object": start.object, "target": start.target, "options": options })
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("-")
}

fn show_object(object: &Value, output: &Output) {
    if output.is_json() {
        output.json_line(object);
    }
    let bytes = object.get("bytes").and_then(Value::as_u64).unwrap_or(0);
    output.line(format!(
        "{:>10}  {:<20}  {}",
        size::show(bytes),
        text(object, "modified"),
        printable(text(object, "name"))
    ));
}

fn show_hint(hint: &Value, output: &Output) {
    if output.is_json() {
        output.json_line(hint);
    }
    output.line(format!(
        "{:<24}  {:<6} {:<8} {}/{}: {}",
        text(hint, "received"),
        text(hint, "cause"),
        text(hint, "state"),
        text(hint, "source"),
        printable(text(hint, "object")),
        printable(text(hint, "outcome"))
    ));
}
