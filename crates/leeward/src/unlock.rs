//! What opens an encrypted repository: where it comes from, and that it stays in this process.
//!
//! Secrets come from files, from the environment, from a command or from a terminal, never from arguments: those can be seen
//! by every user of the machine. As soon as one is held, the process writes no core dumps and cannot be traced by others of
//! the same user.

use std::error::Error as StdError;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use leeward_repository::{Credential, Fingerprint, Identity, Passphrase, Unlock};
use zeroize::Zeroizing;

use crate::prompt;

type Failure = Box<dyn StdError + Send + Sync>;

/// Where a credential may be named in the environment; an option goes before all of them, and they before one another.
const KEY_VARIABLE: &str = "LEEWARD_KEY";
const FILE_VARIABLE: &str = "LEEWARD_PASSPHRASE_FILE";
const COMMAND_VARIABLE: &str = "LEEWARD_PASSPHRASE_COMMAND";
const PASSPHRASE_VARIABLE: &str = "LEEWARD_PASSPHRASE";
const VARIABLES: [&str; 4] = [KEY_VARIABLE, FILE_VARIABLE, COMMAND_VARIABLE, PASSPHRASE_VARIABLE];

/// The longest passphrase or key file, in bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// What opens an encrypted repository
#[derive(Args, Debug, Clone, Default)]
pub struct UnlockArguments {
    /// Read the passphrase from the first line of a file [env: LEEWARD_PASSPHRASE_FILE, or LEEWARD_PASSPHRASE for the
    /// passphrase itself]. It is asked for on the terminal where nothing else is given
    #[arg(long, value_name = "FILE", global = true, help_heading = "Keys", conflicts_with_all = ["passphrase_command", "key"])]
    passphrase_file: Option<PathBuf>,
    /// Read the passphrase from the first line that a command prints, run by sh [env: LEEWARD_PASSPHRASE_COMMAND]
    #[arg(long, value_name = "COMMAND", global = true, help_heading = "Keys", conflicts_with = "key")]
    passphrase_command: Option<String>,
    /// A key file, as `leeward key generate` makes it, or a recovery key in a file [env: LEEWARD_KEY]
    #[arg(long, value_name = "FILE", global = true, help_heading = "Keys")]
    key: Option<PathBuf>,
    /// Refuse any repository but the one with this fingerprint, as `leeward key list` shows it
    #[arg(long, env = "LEEWARD_FINGERPRINT", value_name = "HEX", global = true, help_heading = "Keys")]
    fingerprint: Option<String>,
}

impl UnlockArguments {
    /// What opens a repository with the secrets of these files.
    pub fn of_files(passphrase_file: Option<PathBuf>, key: Option<PathBuf>) -> Self {
        Self { passphrase_file, key, ..Self::default() }
    }

    /// What was given, where anything was.
    fn given(&self) -> Result<Option<Credential>, Failure> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = &self.key {
            read_identity(path).map(|identity| Some(Credential::Identity(identity)))
        } else if let Some(path) = &self.passphrase_file {
            read_passphrase(path).map(|passphrase| Some(Credential::Passphrase(passphrase)))
        } else if let Some(command) = &self.passphrase_command {
            passphrase_of_command(command).map(|passphrase| Some(Credential::Passphrase(passphrase)))
        } else if let Some(path) = variable(KEY_VARIABLE) {
            read_identity(Path::new(&path)).map(|identity| Some(Credential::Identity(identity)))
        } else if let Some(path) = variable(FILE_VARIABLE) {
            read_passphrase(Path::new(&path)).map(|passphrase| Some(Credential::Passphrase(passphrase)))
        } else if let Some(command) = variable(COMMAND_VARIABLE) {
            let command = command.to_str().ok_or_else(|| format!("{COMMAND_VARIABLE} is not UTF-8"))?;
            passphrase_of_command(command).map(|passphrase| Some(Credential::Passphrase(passphrase)))
        } else if let Some(text) = variable(PASSPHRASE_VARIABLE) {
            let text = text.into_string().map_err(|_| format!("{PASSPHRASE_VARIABLE} is not UTF-8"))?;
            Ok(Some(Credential::Passphrase(Passphrase::new(text)?)))
        } else {
            Ok(None)
        }
    }

    /// What is to open a new repository; asked for twice where nothing was given.
    pub fn for_new(&self) -> Result<Credential, Failure> {
        keep_to_this_process();
        if let Some(given) = self.given()? {
            return Ok(given);
        }
        let first = prompt::ask("Passphrase for the new repository: ")?
            .ok_or("give --passphrase-file FILE or --key FILE: there is no terminal to ask on")?;
        let again = prompt::ask("The same again: ")?.unwrap_or_default();
        if *first != *again {
            return Err("the two passphrases differ".into());
        }
        Ok(Credential::Passphrase(Passphrase::new(first.as_str())?))
    }
}

/// What opens the other repository of two
#[derive(Args, Debug, Clone, Default)]
pub struct OtherArguments {
    /// The passphrase of the other repository, in the first line of a file, where it is not that of -r
    /// [env: LEEWARD_OTHER_PASSPHRASE_FILE]
    #[arg(
        long,
        value_name = "FILE",
        env = "LEEWARD_OTHER_PASSPHRASE_FILE",
        hide_env = true,
        help_heading = "Keys",
        conflicts_with = "other_key"
    )]
    other_passphrase_file: Option<PathBuf>,
    /// The key file of the other repository, where it is not that of -r [env: LEEWARD_OTHER_KEY]
    #[arg(long, value_name = "FILE", env = "LEEWARD_OTHER_KEY", hide_env = true, help_heading = "Keys")]
    other_key: Option<PathBuf>,
    /// The other repository is not encrypted, though this one is
    #[arg(long, help_heading = "Keys", conflicts_with_all = ["other_key", "other_passphrase_file"])]
    other_unencrypted: bool,
}

impl UnlockArguments {
    /// What opens the other repository of two: its own keys where they are given, else the same.
    pub fn for_other(&self, other: &OtherArguments) -> Box<dyn Unlock> {
        if other.other_unencrypted {
            return Box::new(leeward_repository::NoCredential);
        }
        if other.other_passphrase_file.is_none() && other.other_key.is_none() {
            // The fingerprint is that of one repository.
            return Box::new(Self { fingerprint: None, ..self.clone() });
        }
        let (passphrase_file, key) = (other.other_passphrase_file.clone(), other.other_key.clone());
        Box::new(Self { passphrase_file, key, ..Self::default() })
    }
}

impl Unlock for UnlockArguments {
    fn expects_encryption(&self) -> bool {
        self.key.is_some()
            || self.passphrase_file.is_some()
            || self.passphrase_command.is_some()
            || self.fingerprint.is_some()
            || VARIABLES.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
    }

    fn credential(&self, location: &str) -> Result<Option<Credential>, Failure> {
        keep_to_this_process();
        if let Some(given) = self.given()? {
            return Ok(Some(given));
        }
        let Some(text) = prompt::ask(&format!("Passphrase for {location}: "))? else { return Ok(None) };
        Ok(Some(Credential::Passphrase(Passphrase::new(text.as_str())?)))
    }

    fn fingerprint(&self) -> leeward_repository::Result<Option<Fingerprint>> {
        self.fingerprint.as_deref().map(str::parse).transpose()
    }
}

/// The key pair in a file.
pub fn read_identity(path: &Path) -> Result<Identity, Failure> {
    let text = read_secret(path)?;
    Identity::from_secret_text(&text).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// The passphrase in the first line of a file.
pub fn read_passphrase(path: &Path) -> Result<Passphrase, Failure> {
    let text = read_secret(path)?;
    Passphrase::new(first_line(&text)).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn read_secret(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    read_text(file, &path.display().to_string())
}

/// Reads all of something short that is text.
fn read_text(from: impl Read, name: &str) -> Result<Zeroizing<String>, Failure> {
    // With room for all of it: a string that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(SECRET_BYTES_MAX as usize + 1));
    let count = from
        .take(SECRET_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("{name}: {error}"))?;
    if count as u64 > SECRET_BYTES_MAX {
        return Err(format!("{name}: it is too long for a key or passphrase").into());
    }
    Ok(text)
}

fn passphrase_of_command(command: &str) -> Result<Passphrase, Failure> {
    let failed = |error: std::io::Error| format!("the passphrase command cannot be run: {error}");
    let mut child =
        Command::new("sh").arg("-c").arg(command).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let text = child.stdout.take().map(|output| read_text(output, "the passphrase command"));
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        return Err(format!("the passphrase command failed ({status})").into());
    }
    let text = text.unwrap_or_else(|| Err("the passphrase command printed nothing".into()))?;
    Ok(Passphrase::new(first_line(&text))?)
}

/// From here on no memory of this process reaches a disk as a core dump. A system that refuses is no reason to stop: the
/// work is what the person wants.
pub fn keep_to_this_process() {
    use rustix::process::{DumpableBehavior, Resource, getrlimit, set_dumpable_behavior, setrlimit};
    let mut limit = getrlimit(Resource::Core);
    limit.current = Some(0);
    let _ = setrlimit(Resource::Core, limit);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
