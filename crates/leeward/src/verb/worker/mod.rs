//! `leeward worker`: writes volumes for a site's daemon, on a machine that the volumes are attached to.

mod session;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use leeward_api::client::{Location, SiteError, Trust, WorkClient};
use leeward_api::token::TokenText;
use leeward_remote::objects::SharedObjects;
use leeward_site::worker::{Order, Work, perform};

use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::Output;
use crate::servers::Side;
use session::Session;

/// How long to wait before a daemon that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often it is told that it does not answer.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Write volumes for a site's daemon, on the machine that they are attached to
///
/// The worker asks the daemon for work and reads images through it: nothing listens here, and no rights in the cloud are
/// needed. Its token is made at the site: leeward token add NAME --role worker, with [worker.NAME] in the configuration.
#[derive(Args)]
pub struct WorkerArguments {
    /// URL of the site's daemon: https, its host and port
    #[arg(long, value_name = "URL")]
    server: String,
    /// The file with the worker's token
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The authority of the daemon's certificate, as PEM; that of the system without it
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The directory under which devices are seen
    #[arg(long, value_name = "DIR", default_value = "/")]
    device_root: PathBuf,
    /// End when the daemon lets the worker in no more: its run is over
    #[arg(long)]
    once: bool,
}

/// Runs the verb.
pub fn run(arguments: &WorkerArguments, output: &Output) -> Result<ExitCode, Failure> {
    let client = connect(arguments)?;
    let mut is_known = false;
    let mut told: Option<Instant> = None;
    output.line(format!("Asking {} for work", arguments.server));
    while !interrupt::is_requested() {
        let error = match client.claim() {
            Ok(order) => {
                (is_known, told) = (true, None);
                if let Some(order) = order {
                    work(&client, &order, arguments, output)?;
                }
                continue;
            }
            Err(error) => error,
        };
        if WorkClient::is_shut_out(&error) && arguments.once && is_known {
            output.line("The run is over");
            return Ok(ExitCode::SUCCESS);
        }
        // Who was never let in will not be by asking again; who was may be again, once somebody mends the token.
        if WorkClient::is_shut_out(&error) && !is_known {
            return Err(shut_out(&error));
        }
        if told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
            told = Some(Instant::now());
            eprintln!("leeward: {error}; it is asked again");
        }
        std::thread::sleep(AGAIN);
    }
    Ok(ExitCode::SUCCESS)
}

fn connect(arguments: &WorkerArguments) -> Result<WorkClient, Failure> {
    let usage = |what: String| Failure::new(Code::Usage, what);
    let location = Location::parse(&arguments.server).map_err(usage)?;
    let path = &arguments.token_file;
    let token = std::fs::read_to_string(path)
        .map_err(|error| usage(format!("{}: cannot read the token: {error}", path.display())))?;
    // A daemon that demands certificates of its clients demands one of its workers as well.
    let certificate = Side::Site.trust()?.certificate;
    let trust = Trust { authority: arguments.ca.clone(), certificate };
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| Failure::new(Code::Failed, format!("the system gives no random bytes: {error}")))?;
    let process: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    WorkClient::new(&location, &TokenText::new(token.trim()), &trust, &process).map_err(usage)
}

fn shut_out(error: &SiteError) -> Failure {
    let hint = match error {
        SiteError::Refused { hint, .. } if !hint.is_empty() => hint.clone(),
        _ => "make a token with: leeward token add".to_owned(),
    };
    Failure::new(Code::Denied, error.to_string()).hint(hint)
}

fn work(
    client: &WorkClient,
    order: &Order,
    arguments: &WorkerArguments,
    output: &Output,
) -> Result<(), Failure> {
    output.line(format!("Working on step {} of run {}", order.step, order.run));
    let place = match &order.work {
        Work::Write(work) => work.place.as_str(),
        Work::Check(_) => "",
    };
    let objects: SharedObjects = Arc::new(client.objects(&order.task, place));
    let session = Session::new(client, order);
    let ended = session.watched(|| perform(order, &objects, &arguments.device_root, &session))?;
    match session.end(ended) {
        Ok(()) => output.line("Done with it, and told"),
        // Whoever has it now goes on from the last checkpoint.
        Err(what) => eprintln!("leeward: run {}: what came of it could not be told: {what}", order.run),
    }
    Ok(())
}
