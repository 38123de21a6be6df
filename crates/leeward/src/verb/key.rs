//! `leeward key`: who may open an encrypted repository.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Subcommand};
use leeward_repository::{
    Credential, Identity, KeyAccess, KeyInfo, NewKey, PassphraseCost, PublicKey, Recipient, Repository,
};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use zeroize::Zeroizing;

use super::repository::RepositoryArgument;
use crate::failure::{Code, Failure};
use crate::output::{Output, printable};
use crate::unlock::{keep_to_this_process, read_passphrase};

/// Make keys, and say who may open an encrypted repository
#[derive(Subcommand)]
pub enum KeyVerb {
    /// Make a key pair: the secret half goes to a new FILE that only you can read, the public half is printed
    Generate {
        /// The new file
        file: PathBuf,
    },
    /// Let somebody else open the repository; no data is rewritten
    #[command(group = ArgGroup::new("whom").required(true).args(["recipient", "new_passphrase_file"]))]
    Add {
        /// Whoever has the secret half of this public key
        #[arg(long, value_name = "PUBLIC-KEY")]
        recipient: Option<PublicKey>,
        /// Whoever knows the passphrase in the first line of FILE
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
        /// For backups only: what is stored cannot be read with it
        #[arg(long)]
        write_only: bool,
        /// What to call it
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// List who may open the repository
    List,
    /// Let somebody open the repository no more
    Remove {
        /// Name, or the first digits of the identity
        #[arg(value_name = "KEY")]
        wanted: String,
    },
    /// Make a recovery key: a full key as text and QR code, to be printed and kept offline
    Recovery {
        /// Write it to a new FILE that only you can read, instead of showing it on the terminal
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// What to call it
        #[arg(long, value_name = "NAME", default_value = "recovery")]
        name: String,
    },
}

/// Runs a `key` verb.
pub fn run(verb: &KeyVerb, repository: &RepositoryArgument, output: &Output) -> Result<ExitCode, Failure> {
    match verb {
        KeyVerb::Generate { file } => generate(file, output),
        KeyVerb::Add { recipient, new_passphrase_file, write_only, name } => {
            let opened = repository.open()?;
            let recipient = match (recipient, new_passphrase_file) {
                (Some(public), _) => Recipient::PublicKey(*public),
                (None, Some(file)) => {
                    Recipient::Passphrase(read_passphrase(file).map_err(usage)?, PassphraseCost::default())
                }
                (None, None) => return Err(Failure::new(Code::Usage, "nobody is named")),
            };
            let access = if *write_only { KeyAccess::WriteOnly } else { KeyAccess::Full };
            let name = name.clone().unwrap_or_else(|| format!("added {}", jiff::Timestamp::now()));
            add(&opened, &new_key(&name, access, recipient), output)
        }
        KeyVerb::List => list(&repository.open()?, output),
        KeyVerb::Remove { wanted } => remove(&repository.open()?, wanted, output),
        KeyVerb::Recovery { output: file, name } => {
            let target = RecoveryTarget::new(file.as_deref())?;
            let opened = repository.open()?;
            opened.add_key(&NewKey { name: name.clone(), ..target.new_key() })?;
            target.hand_out(&opened, output)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A key that is to be added.
pub fn new_key(name: &str, access: KeyAccess, recipient: Recipient) -> NewKey {
    NewKey { name: name.to_owned(), access, recipient }
}

/// For whom to wrap a key, so that this opens it.
pub fn recipient_of(credential: &Credential) -> Recipient {
    match credential {
        Credential::Passphrase(passphrase) => {
            Recipient::Passphrase(passphrase.clone(), PassphraseCost::default())
        }
        Credential::Identity(identity) => Recipient::PublicKey(identity.public()),
    }
}

/// What is wrong with what was given to open something.
pub fn usage(error: Box<dyn std::error::Error + Send + Sync>) -> Failure {
    Failure::new(Code::Usage, error.to_string())
        .hint("give a passphrase with --passphrase-file FILE or a key with --key FILE; leeward key generate FILE makes one")
}

fn generate(file: &Path, output: &Output) -> Result<ExitCode, Failure> {
    keep_to_this_process();
    let identity = Identity::generate()?;
    write_secret(file, &key_file(&identity))?;
    let public = identity.public().to_string();
    if output.is_json() {
        output.json_line(&serde_json::json!({ "file": file, "public_key": public }));
    }
    output.line(&public);
    Ok(ExitCode::SUCCESS)
}

/// The text of a key file.
pub fn key_file(identity: &Identity) -> Zeroizing<String> {
    let secret = identity.to_secret_text();
    Zeroizing::new(format!(
        "# A secret key of Leeward. Whoever has this file opens what was wrapped for the public key\n# {}\n{}\n",
        identity.public(),
        secret.as_str()
    ))
}

/// Writes a new file that only its owner can read.
pub fn write_secret(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::new(Code::Refused, format!("{}: the file is there already", path.display()))
                .hint("choose another name: a key that is overwritten is lost")
        }
        _ => Failure::new(Code::Io, format!("{}: {error}", path.display())),
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

fn add(repository: &Repository, new: &NewKey, output: &Output) -> Result<ExitCode, Failure> {
    let added = repository.add_key(new)?;
    if output.is_json() {
        output.json_line(&added);
    }
    output.line(format!(
        "Added the {} key {} ({})",
        new.access.name(),
        printable(&added.name),
        &added.id[..8]
    ));
    if matches!(new.recipient, Recipient::PublicKey(_))
        && let Some(fingerprint) = repository.fingerprint()
    {
        output.line(format!(
            "Tell its holder the fingerprint, to be given with --fingerprint: anybody can make a repository for a \
             public key\n{fingerprint}"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn list(repository: &Repository, output: &Output) -> Result<ExitCode, Failure> {
    let keys = repository.wrapped_keys()?;
    if output.is_json() {
        let fingerprint = repository.fingerprint().map(|fingerprint| fingerprint.to_string());
        for key in &keys {
            let mut value = serde_json::to_value(key).unwrap_or_default();
            value["fingerprint"] = fingerprint.clone().into();
            output.json_line(&value);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Some(fingerprint) = repository.fingerprint() else {
        output.line("The repository is not encrypted: whoever has it reads it");
        return Ok(ExitCode::SUCCESS);
    };
    output.line(format!("fingerprint {fingerprint}"));
    output.line(format!("{:<8}  {:<10}  {:<20}  {:<24}  {}", "ID", "ACCESS", "SINCE", "NAME", "HOLDER"));
    keys.iter().for_each(|key| output.line(line_of(key)));
    Ok(ExitCode::SUCCESS)
}

fn line_of(key: &KeyInfo) -> String {
    let id: String = printable(&key.id).chars().take(8).collect();
    if let Some(flaw) = &key.flaw {
        return format!("{id:<8}  NOT TO BE BELIEVED: {}", printable(flaw));
    }
    let since: String = printable(&key.created).chars().take(19).collect();
    format!(
        "{id:<8}  {:<10}  {since:<20}  {:<24}  {}",
        key.access.map_or("", KeyAccess::name),
        printable(&key.name),
        printable(&key.recipient)
    )
}

fn remove(repository: &Repository, wanted: &str, output: &Output) -> Result<ExitCode, Failure> {
    let removed = repository.remove_key(wanted)?;
    if output.is_json() {
        output.json_line(&removed);
    }
    output.line(format!("Removed the key {} ({})", printable(&removed.name), printable(&removed.id)));
    output.line(
        "Whoever used it before may have kept the secrets that it gave, and goes on reading the objects wherever they can \
         get them. To shut them out, copy everything into a new repository: it gets secrets of its own",
    );
    Ok(ExitCode::SUCCESS)
}

/// A new recovery key, and where it goes. Made before anything is changed, so that a key that cannot be handed out is not
/// added.
pub struct RecoveryTarget {
    identity: Identity,
    file: Option<PathBuf>,
}

impl RecoveryTarget {
    /// A new recovery key, for a file or the terminal.
    ///
    /// # Errors
    /// The file is there already, or there is neither file nor terminal.
    pub fn new(file: Option<&Path>) -> Result<Self, Failure> {
        keep_to_this_process();
        match file {
            Some(path) if path.exists() => {
                return Err(Failure::new(
                    Code::Refused,
                    format!("{}: the file is there already", path.display()),
                )
                .hint("choose another name: a key that is overwritten is lost"));
            }
            None if !std::io::stdout().is_terminal() => {
                return Err(Failure::new(Code::Refused, "a recovery key is shown on a terminal only")
                    .hint("run it on a terminal, or name a new file for the key"));
            }
            _ => {}
        }
        Ok(Self { identity: Identity::generate()?, file: file.map(Path::to_owned) })
    }

    /// The key to add.
    pub fn new_key(&self) -> NewKey {
        new_key("recovery", KeyAccess::Full, Recipient::PublicKey(self.identity.public()))
    }

    /// Hands the key out, once it opens the repository.
    pub fn hand_out(&self, repository: &Repository, output: &Output) -> Result<(), Failure> {
        let sheet = self.sheet(repository)?;
        match &self.file {
            Some(path) => {
                write_secret(path, &sheet)?;
                output.line(format!("Wrote the recovery key to {}", path.display()));
            }
            // The one secret that is printed: on a terminal, for a person who asked for it.
            None => {
                let mut terminal = std::io::stdout().lock();
                terminal.write_all(sheet.as_bytes()).and_then(|()| terminal.flush()).map_err(|error| {
                    Failure::new(Code::Io, format!("the recovery key cannot be shown: {error}"))
                })?;
            }
        }
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "recovery_public_key": self.identity.public().to_string(),
                "file": self.file,
            }));
        }
        Ok(())
    }

    /// What is to be printed: the key as text and as a QR code. It is a key file as well: all else stands in comments.
    fn sheet(&self, repository: &Repository) -> Result<Zeroizing<String>, Failure> {
        let secret = self.identity.to_secret_text();
        let code = QrCode::with_error_correction_level(secret.as_bytes(), EcLevel::M)
            .map_err(|error| Failure::new(Code::Failed, format!("no QR code can be made: {error}")))?;
        let picture = Zeroizing::new(code.render::<Dense1x2>().build());
        let mut sheet = Zeroizing::new(String::with_capacity(16 << 10));
        for line in [
            "Recovery key of a Leeward repository: whoever has it reads everything. Print it and keep it offline.",
            &format!("repository  {}", repository.config().repository_id),
            &format!("location    {}", printable(repository.location())),
            &format!(
                "fingerprint {}",
                repository.fingerprint().map(|found| found.to_string()).unwrap_or_default()
            ),
            "Type the line below, or scan the code, into a file and give it with --key FILE.",
        ] {
            sheet.push_str("# ");
            sheet.push_str(line);
            sheet.push('\n');
        }
        sheet.push_str(&secret);
        sheet.push('\n');
        for line in picture.lines() {
            sheet.push_str("# ");
            sheet.push_str(line);
            sheet.push('\n');
        }
        Ok(sheet)
    }
}
