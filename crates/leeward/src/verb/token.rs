//! `leeward token`: who may use a repository through its server.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use leeward_api::token::{Error, NewToken, Role, Token, TokenFile};
use serde_json::json;

use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::size;

/// The file that all verbs work on.
#[derive(Args)]
pub struct FileArgument {
    /// The file of tokens of the server; made where it is missing
    #[arg(long = "tokens", value_name = "FILE", env = "LEEWARD_TOKENS")]
    file: PathBuf,
}

/// Make, list and remove the tokens of a server
#[derive(Subcommand)]
pub enum TokenVerb {
    /// Make a token and show it, once
    Add {
        #[command(flatten)]
        file: FileArgument,
        /// What to call it, as in the name of a machine
        name: String,
        /// What it may do: admin, operator, writer (adds only), reader, or worker (writes volumes for a site)
        #[arg(long)]
        role: Role,
        /// Confine it to the images under this name; may be given several times
        #[arg(long = "prefix", value_name = "IMAGE")]
        prefixes: Vec<String>,
        /// Bytes that may be stored with it
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        quota: Option<u64>,
        /// Until when it is valid: days as in 90d, or a time
        #[arg(long, value_name = "WHEN", value_parser = parse_expiry)]
        expires: Option<Timestamp>,
        /// Write the token to this new file instead of showing it
        #[arg(long, value_name = "PATH")]
        output: Option<PathBuf>,
    },
    /// List the tokens: role, prefixes, what is stored, until when
    List {
        #[command(flatten)]
        file: FileArgument,
    },
    /// Remove a token; it is not let in any more from the next request on
    Remove {
        #[command(flatten)]
        file: FileArgument,
        /// Its name
        name: String,
    },
    /// Count what a token has stored from nothing again, after a collection for instance
    Reset {
        #[command(flatten)]
        file: FileArgument,
        /// Its name
        name: String,
        /// Give it this quota from now on
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        quota: Option<u64>,
    },
    /// Bound what all tokens confined under a prefix store together
    Quota {
        #[command(flatten)]
        file: FileArgument,
        /// The prefix
        prefix: String,
        /// Bytes; no bound any more without it
        #[arg(value_parser = size::parse)]
        bytes: Option<u64>,
    },
}

/// A failure of a file of tokens.
pub fn failure(error: Error) -> Failure {
    let code = match &error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Code::NotFound,
        Error::Io { .. } => Code::Io,
        Error::Open { .. } => Code::Refused,
        Error::Damaged { .. } => Code::Damaged,
        _ => Code::Usage,
    };
    let message = match &error {
        Error::Io { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    };
    Failure::new(code, message).hint("tokens are made with: leeward token add --tokens FILE NAME --role ROLE")
}

/// Where the server keeps what it has to remember of tokens.
pub fn ledger(tokens: &Path) -> PathBuf {
    let mut name = tokens.as_os_str().to_owned();
    name.push(".ledger");
    name.into()
}

/// Runs the verb.
pub fn run(verb: TokenVerb, output: &Output) -> Result<ExitCode, Failure> {
    match verb {
        TokenVerb::Add { file, name, role, prefixes, quota, expires, output: path } => {
            let new = NewToken { name, role, prefixes, quota_bytes: quota, expires };
            add(&file.file, new, path.as_deref(), output)?;
        }
        TokenVerb::List { file } => list(&file.file, output)?,
        TokenVerb::Remove { file, name } => change(&file.file, |tokens| match tokens.remove(&name) {
            true => Ok(()),
            false => Err(missing(&name)),
        })?,
        TokenVerb::Reset { file, name, quota } => change(&file.file, |tokens| {
            let token =
                tokens.tokens.iter_mut().find(|token| token.name == name).ok_or_else(|| missing(&name))?;
            token.epoch = token.epoch.wrapping_add(1);
            token.quota_bytes = quota.or(token.quota_bytes);
            Ok(())
        })?,
        TokenVerb::Quota { file, prefix, bytes } => {
            change(&file.file, |tokens| tokens.set_prefix_quota(&prefix, bytes).map_err(failure))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn missing(name: &str) -> Failure {
    Failure::new(Code::NotFound, format!("there is no token {name:?}"))
        .hint("see what there is with: leeward token list")
}

/// Changes the file while nobody else does.
pub fn change<T>(path: &Path, act: impl FnOnce(&mut TokenFile) -> Result<T, Failure>) -> Result<T, Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let failed = |error: std::io::Error| {
        Failure::new(Code::Io, format!("{}: cannot lock it: {error}", path.display()))
    };
    let lock = std::fs::File::create(PathBuf::from(name)).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let mut tokens = TokenFile::load_or_new(path).map_err(failure)?;
    let done = act(&mut tokens)?;
    tokens.save(path).map_err(failure)?;
    Ok(done)
}

fn add(path: &Path, new: NewToken, to: Option<&Path>, output: &Output) -> Result<(), Failure> {
    let (name, role) = (new.name.clone(), new.role);
    // The place first: a token that is known to the server and was shown to nobody would be of no use.
    let file = to.map(new_secret_file).transpose()?;
    let text = change(path, |tokens| tokens.add(new).map_err(failure)).inspect_err(|_| {
        // It is empty and ours; whoever tries again finds it free.
        to.filter(|_| file.is_some()).map(std::fs::remove_file);
    })?;
    match (file, to) {
        (Some(mut file), Some(to)) => {
            writeln!(file, "{}", text.reveal()).map_err(|error| {
                Failure::new(Code::Io, format!("{}: cannot write: {error}", to.display()))
            })?;
            output.line(format!("Made token {name} ({}) in {}", role.name(), to.display()));
            if output.is_json() {
                output.json_line(&json!({ "name": name, "role": role, "file": to }));
            }
        }
        _ => {
            output.line(format!(
                "Made token {name} ({}); it is shown this once:\n{}",
                role.name(),
                text.reveal()
            ));
            if output.is_json() {
                output.json_line(&json!({ "name": name, "role": role, "token": text.reveal() }));
            }
        }
    }
    Ok(())
}

fn new_secret_file(path: &Path) -> Result<std::fs::File, Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Failure::new(Code::Io, format!("{}: cannot make the file: {error}", path.display())))
}

fn list(path: &Path, output: &Output) -> Result<(), Failure> {
    let tokens = TokenFile::load(path).map_err(failure)?;
    let used = used_by(path)?;
    let now = Timestamp::now();
    for token in &tokens.tokens {
        let (used, has_expired) = (used(token), token.has_expired(now));
        if output.is_json() {
            output.json_line(&json!({
                "name": token.name, "role": token.role, "prefixes": token.prefixes, "quota_bytes": token.quota_bytes,
                "used_bytes": used, "expires": token.expires, "expired": has_expired, "created": token.created,
            }));
        }
        let quota = token.quota_bytes.map_or(String::new(), |quota| format!(" of {}", size::show(quota)));
        let expires = match token.expires {
            None => String::new(),
            Some(when) if has_expired => format!(", expired {when}"),
            Some(when) => format!(", until {when}"),
        };
        let images = if token.is_confined() { token.prefixes.join(" ") } else { "all images".to_owned() };
        output.line(format!(
            "{:20} {:9} {images}: {}{quota} stored{expires}",
            token.name,
            token.role.name(),
            size::show(used)
        ));
    }
    for (prefix, bytes) in &tokens.prefix_quotas {
        output.line(format!("under {prefix}: {} together", size::show(*bytes)));
    }
    Ok(())
}

/// What was stored with each token, as the server has written it down.
fn used_by(path: &Path) -> Result<impl Fn(&Token) -> u64 + use<>, Failure> {
    leeward_api::ledger_of(&ledger(path)).map_err(|error| {
        Failure::new(Code::Io, format!("the ledger beside the tokens cannot be read: {error}"))
    })
}

fn parse_expiry(text: &str) -> Result<Timestamp, String> {
    let bad = || format!("{text:?} is no time: write days as in 90d, or 2027-01-31T00:00:00Z");
    match text.strip_suffix('d') {
        Some(days) => {
            let hours =
                days.parse::<i64>().ok().filter(|days| (0..=36_500).contains(days)).ok_or_else(bad)? * 24;
            Timestamp::now().checked_add(SignedDuration::from_hours(hours)).map_err(|_| bad())
        }
        None => text.parse().map_err(|_| bad()),
    }
}
