//! `leeward notify`: who is told of what happens at a site, and whether it arrives.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use leeward_remote::encode::component;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::failure::{Code, Failure};
use crate::output::{Output, printable};
use crate::place_of_site::{SiteArgument, failure};

/// See who is told of what happens at a site, what waits to be told or was given up, and try it
#[derive(Args)]
pub struct NotifyArguments {
    #[command(flatten)]
    site: SiteArgument,
    #[command(subcommand)]
    verb: NotifyVerb,
}

#[derive(Subcommand)]
enum NotifyVerb {
    /// List what waits to be told and what was given up, newest first
    List {
        /// What was delivered as well
        #[arg(long)]
        all: bool,
        /// How many at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        most: u16,
    },
    /// List the receivers: on which occasions each is told, and how many notices stand where
    Receivers,
    /// Have the daemon tell a receiver something that has not happened, and show what it answered
    Test {
        /// The receiver
        name: String,
    },
}

#[derive(Deserialize)]
struct Deliveries {
    deliveries: Vec<Delivery>,
}

#[derive(Serialize, Deserialize)]
struct Delivery {
    number: u64,
    receiver: String,
    id: String,
    kind: String,
    about: Option<String>,
    title: String,
    made: Timestamp,
    state: String,
    due: Option<Timestamp>,
    attempts: u32,
    outcome: Option<String>,
    ended: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Receivers {
    receivers: Vec<Receiver>,
}

#[derive(Serialize, Deserialize)]
struct Receiver {
    name: String,
    way: String,
    on: Vec<String>,
    waiting: u64,
    failed: u64,
    delivered: u64,
}

#[derive(Serialize, Deserialize)]
struct Tried {
    id: String,
    delivered: bool,
    answer: String,
}

/// Runs the verb.
pub fn run(arguments: &NotifyArguments, output: &Output) -> Result<ExitCode, Failure> {
    let client = arguments.site.client()?;
    match &arguments.verb {
        NotifyVerb::List { all, most } => {
            let state = if *all { "" } else { "state=waiting,failed&" };
            let path = format!("/v1/notify/deliveries?{state}most={most}");
            let found: Deliveries = client.get(&path).map_err(failure)?;
            if found.deliveries.is_empty() {
                output.line(if *all {
                    "Nothing was told"
                } else {
                    "Nothing waits, and nothing was given up"
                });
            }
            found.deliveries.iter().for_each(|delivery| show_delivery(delivery, output));
            Ok(ExitCode::SUCCESS)
        }
        NotifyVerb::Receivers => {
            let found: Receivers = client.get("/v1/notify").map_err(failure)?;
            if found.receivers.is_empty() {
                output.line("Nobody is told; [notify.NAME] in the site's configuration names a receiver");
            }
            found.receivers.iter().for_each(|receiver| show_receiver(receiver, output));
            Ok(ExitCode::SUCCESS)
        }
        NotifyVerb::Test { name } => {
            let path = format!("/v1/notify/{}/test", component(name));
            let tried: Tried = client.post(&path, &json!({})).map_err(failure)?;
            if output.is_json() {
                output.json_line(&tried);
            }
            if !tried.delivered {
                return Err(Failure::new(
                    Code::Io,
                    format!("{name} was not told: {}", printable(&tried.answer)),
                )
                .hint(format!("see [notify.{name}] in the site's configuration")));
            }
            output.line(format!("{name} was told: {} ({})", printable(&tried.answer), tried.id));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn show_delivery(delivery: &Delivery, output: &Output) {
    if output.is_json() {
        output.json_line(delivery);
    }
    let time = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    output.line(format!(
        "{:<21} {:<16} {:<9} {}",
        time(delivery.made),
        delivery.receiver,
        delivery.state,
        printable(&delivery.title)
    ));
    let outcome = delivery.outcome.as_deref().map(|outcome| format!(": {}", printable(outcome)));
    let next = delivery.due.filter(|_| delivery.attempts > 0).map(|due| format!(", next {}", time(due)));
    if delivery.attempts > 0 || outcome.is_some() {
        let (next, outcome) = (next.unwrap_or_default(), outcome.unwrap_or_default());
        output.line(format!("  {} attempts{next}{outcome}", delivery.attempts));
    }
}

fn show_receiver(receiver: &Receiver, output: &Output) {
    if output.is_json() {
        output.json_line(receiver);
    }
    output.line(format!(
        "{:<16} {:<8} waiting {}, failed {}, delivered {}",
        receiver.name, receiver.way, receiver.waiting, receiver.failed, receiver.delivered
    ));
    output.line(format!("  on {}", receiver.on.join(", ")));
}
