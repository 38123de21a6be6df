//! From an error to a message and an exit code.

use std::error::Error as StdError;
use std::process::ExitCode;

use leeward_disk::ErrorKind;

use crate::output::Output;

/// Exit codes; the table stands in `docs/user-guide.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Anything that has no code of its own.
    Failed = 1,
    /// The command line is wrong (clap's code).
    Usage = 2,
    /// Two disks differ, or a verification found a difference.
    Differs = 3,
    /// Repository or image damaged.
    Damaged = 4,
    /// Refused for safety.
    Refused = 5,
    /// The medium or the network failed; trying again may help.
    Io = 6,
    /// Something that was named does not exist.
    NotFound = 7,
    /// Somebody else changed or holds it; trying again may help.
    Conflict = 8,
    /// A key or passphrase is missing, wrong, or not enough.
    Denied = 9,
    /// Interrupted by a signal; a rerun continues.
    Interrupted = 130,
}

impl Code {
    /// What to do next where nothing more is known.
    fn usual_hint(self) -> &'static str {
        match self {
            Self::Usage => "see what a verb takes with: leeward VERB --help",
            Self::Differs => "see where with: leeward diff, or leeward disk compare",
            Self::Damaged => "try another copy of the image or repository",
            Self::Refused => "if it is what you want, the message says how to allow it",
            Self::NotFound => "see what there is with: leeward images, leeward log IMAGE",
            Self::Conflict => "run the command again",
            Self::Denied => {
                "give the right one with --passphrase-file FILE or --key FILE; see who may open it with: leeward key list"
            }
            Self::Interrupted => "run the same command again",
            Self::Failed | Self::Io => {
                "see that the medium or the other side is there and may be written or read, then run the command again"
            }
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    error: Box<dyn StdError + Send + Sync>,
    hint: Option<String>,
}

impl Failure {
    /// A failure with a message of its own.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, error: message.into().into(), hint: None }
    }

    /// Adds what a person may do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code that it leads to.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Prints the error, its causes and the hint, and returns the exit code.
    pub fn report(&self, output: &Output) -> ExitCode {
        let hint = self.hint.as_deref().unwrap_or_else(|| self.code.usual_hint());
        let mut causes = Vec::new();
        let mut next = self.error.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "error": self.error.to_string(),
                "causes": causes,
                "hint": hint,
                "code": self.code as u8,
            }));
        }
        eprint!("leeward: {}", self.error);
        for cause in &causes {
            eprint!(": {cause}");
        }
        eprintln!();
        eprintln!("  hint: {hint}");
        self.code.into()
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl From<leeward_disk::Error> for Failure {
    fn from(error: leeward_disk::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Io => Code::Io,
            ErrorKind::Corrupt => Code::Damaged,
            ErrorKind::Refused => Code::Refused,
            ErrorKind::Usage => Code::Usage,
            ErrorKind::Busy => Code::Conflict,
            ErrorKind::Cancelled => Code::Interrupted,
            _ => Code::Failed,
        };
        let hint = matches!(error, leeward_disk::Error::InUse { .. })
            .then(|| "stop the machine first, or restore to a new disk".to_owned());
        Self { code, error: Box::new(error), hint }
    }
}

impl From<leeward_cloud::Error> for Failure {
    fn from(error: leeward_cloud::Error) -> Self {
        use leeward_cloud::{Error, ErrorKind};
        let error = match error {
            Error::Disk(error) => return error.into(),
            other => other,
        };
        let (code, hint) = match error.kind() {
            ErrorKind::Io | ErrorKind::Protocol => (
                Code::Io,
                Some("see that the machine runs and that its QMP socket is the one that was given"),
            ),
            ErrorKind::Refused => (Code::Refused, None),
            ErrorKind::Busy => {
                (Code::Conflict, Some("wait until the other one has ended, then run the command again"))
            }
            ErrorKind::NotFound => (
                Code::NotFound,
                Some("see the machine's disks with: leeward backup --dry-run qmp:SOCKET IMAGE"),
            ),
            ErrorKind::Cancelled => (Code::Interrupted, None),
            _ => (Code::Failed, None),
        };
        Self { code, error: Box::new(error), hint: hint.map(str::to_owned) }
    }
}

impl From<leeward_protect::Error> for Failure {
    fn from(error: leeward_protect::Error) -> Self {
        use leeward_protect::{Error, ErrorKind};
        match error {
            Error::Disk(error) => error.into(),
            Error::Cloud(error) => error.into(),
            Error::Repository(error) => error.into(),
            Error::Asked { kind, what, hint } => {
                let code = match kind {
                    ErrorKind::Refused => Code::Refused,
                    ErrorKind::Usage => Code::Usage,
                    ErrorKind::NotFound => Code::NotFound,
                    ErrorKind::Failed => Code::Failed,
                };
                Self::new(code, what).hint(hint)
            }
            other => Self::new(Code::Failed, other.told()),
        }
    }
}

impl From<leeward_files::Error> for Failure {
    fn from(error: leeward_files::Error) -> Self {
        use leeward_files::{Error, ErrorKind};
        let error = match error {
            Error::Disk(error) => return error.into(),
            other => other,
        };
        let (code, hint) = match error.kind() {
            ErrorKind::Io => (Code::Io, None),
            ErrorKind::Corrupt => (
                Code::Damaged,
                Some(
                    "try an older snapshot; --ignore-checksums reads what has a wrong checksum all the same",
                ),
            ),
            ErrorKind::NotFound => (Code::NotFound, Some("see what there is with: leeward files")),
            ErrorKind::Cancelled => (Code::Interrupted, None),
            ErrorKind::Unsupported => (
                Code::Failed,
                Some("restore the disk and mount it in a machine that knows it: leeward restore"),
            ),
            _ => (Code::Failed, None),
        };
        Self { code, error: Box::new(error), hint: hint.map(str::to_owned) }
    }
}

impl From<leeward_repository::Error> for Failure {
    fn from(error: leeward_repository::Error) -> Self {
        use leeward_repository::{Error, ErrorKind};
        let error = match error {
            Error::Disk(error) => return error.into(),
            other => other,
        };
        let code = match error.kind() {
            _ if matches!(error, Error::Store(leeward_store::Error::NoBucket { .. })) => Code::NotFound,
            ErrorKind::Io => Code::Io,
            ErrorKind::Damaged => Code::Damaged,
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::Conflict => Code::Conflict,
            ErrorKind::Refused => Code::Refused,
            ErrorKind::Denied => Code::Denied,
            ErrorKind::Usage => Code::Usage,
            ErrorKind::Interrupted => Code::Interrupted,
            _ => Code::Failed,
        };
        let hint = match &error {
            Error::Denied { .. } => {
                Some("use a full key: a write-only key makes backups, it does not read them or hand out keys")
            }
            Error::NotEncrypted { .. } => Some(
                "if that is right, leave out the key and unset LEEWARD_KEY and LEEWARD_PASSPHRASE*; if it was encrypted before, somebody has replaced it",
            ),
            Error::WrongFingerprint { .. } => {
                Some("ask whoever made the repository for its fingerprint: leeward key list shows it")
            }
            Error::MissingBlob { .. } | Error::WrongContent { .. } | Error::Damaged { .. } => Some(
                "run `leeward check --read-data` to see everything that is damaged and which snapshots it touches",
            ),
            Error::NoSnapshot { .. } | Error::AmbiguousSnapshot { .. } => {
                Some("see the snapshots with: leeward log IMAGE")
            }
            Error::NoImage { .. } => Some("see the images with: leeward images"),
            Error::RepositoryExists { .. } => Some("use it as it is, or choose another directory"),
            Error::Store(leeward_store::Error::NoBucket { .. }) => Some(
                "make the bucket, or see how its name is spelt; see what a store can do with: leeward repo probe",
            ),
            Error::Store(error) if error.kind() == leeward_store::ErrorKind::NoSpace => Some(
                "free some space where the repository is, then run the command again; what was stored is used again",
            ),
            _ => None,
        };
        Self { code, error: Box::new(error), hint: hint.map(str::to_owned) }
    }
}

impl From<leeward_remote::Error> for Failure {
    fn from(error: leeward_remote::Error) -> Self {
        use leeward_remote::{Error, ErrorKind};
        let error = match error {
            Error::Store(error) => return leeward_repository::Error::from(error).into(),
            other => other,
        };
        let (code, hint) = match error.kind() {
            ErrorKind::Usage => (Code::Usage, "see how locations are spelt in docs/stores.md"),
            ErrorKind::Denied => {
                (Code::Refused, "credentials come from variables and files, never from arguments")
            }
            _ => (Code::Io, "see that this machine has certificates of authorities (ca-certificates)"),
        };
        Self { code, error: Box::new(error), hint: Some(hint.to_owned()) }
    }
}

impl From<leeward_mount::Error> for Failure {
    fn from(error: leeward_mount::Error) -> Self {
        use leeward_mount::{Error, ErrorKind};
        let error = match error {
            Error::Repository(error) => return error.into(),
            other => other,
        };
        let code = match error.kind() {
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::Refused => Code::Refused,
            ErrorKind::Io => Code::Io,
            _ => Code::Failed,
        };
        let hint = error.hint().map(str::to_owned);
        Self { code, error: Box::new(error), hint }
    }
}
