//! `leeward server init`: all that a new site needs.
//!
//! The configuration comes last: where it is, all else is there as well. Who was stopped before that runs the verb again, and
//! it goes on where it was: each step looks at what an earlier attempt has left. What is not its own it neither replaces nor
//! removes.

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use leeward_api::token::{NewToken, Role, TokenFile, TokenText};
use leeward_site::Config;
use leeward_site::config::TEMPLATE;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::super::token;
use crate::failure::{Code, Failure};
use crate::output::Output;

type Step = fn(&NewSite) -> Result<(), Failure>;

/// What is done, in this order.
const STEPS: [Step; 4] =
    [NewSite::make_directories, NewSite::make_token, NewSite::show_token, NewSite::write_configuration];

pub(super) fn run(file: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let site = NewSite::at(file)?;
    STEPS.iter().try_for_each(|step| step(&site))?;
    output.line(format!("Wrote {}, with what each key is for", file.display()));
    output.line(format!("An admin's token is in {}: it is what you log in with", site.token_file.display()));
    output.line("Start the daemon with: leeward server");
    if output.is_json() {
        output.json_line(&serde_json::json!({ "config": file, "token_file": site.token_file }));
    }
    Ok(ExitCode::SUCCESS)
}

/// A site that is being made.
struct NewSite {
    file: PathBuf,
    directory: PathBuf,
    token_file: PathBuf,
    config: Config,
}

impl NewSite {
    fn at(file: &Path) -> Result<Self, Failure> {
        if file.exists() {
            return Err(is_there(file));
        }
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new(".")).to_owned();
        let config = Config::parse(TEMPLATE, &directory).map_err(|what| Failure::new(Code::Failed, what))?;
        Ok(Self { file: file.to_owned(), token_file: directory.join("admin.token"), directory, config })
    }

    fn make_directories(&self) -> Result<(), Failure> {
        make(&self.directory)?;
        make(&self.config.state)?;
        let mut sources = self.config.sources.values().filter(|source| source.is_directory());
        sources.try_for_each(|source| make(Path::new(&source.location)))
    }

    /// Makes an admin's token, unless there is one of which the text is known. The text is on disk before the daemon would
    /// take it: a token of which nobody has the text would be in the way for ever.
    fn make_token(&self) -> Result<(), Failure> {
        if self.token_file.exists() {
            return match self.is_token(&self.token_file)? {
                true => Ok(()),
                false => Err(is_there(&self.token_file)),
            };
        }
        let unpublished = beside(&self.token_file);
        if self.is_token(&unpublished)? {
            return Ok(());
        }
        token::change(&self.config.tokens_file(), |tokens| {
            let new = NewToken {
                name: "admin".to_owned(),
                role: Role::Admin,
                prefixes: Vec::new(),
                quota_bytes: None,
                expires: None,
            };
            let text = tokens.add(new).map_err(token::failure)?;
            write(&unpublished, format!("{}\n", text.reveal()).as_bytes())
        })
    }

    /// Whether a file has the text of one of the site's tokens.
    fn is_token(&self, file: &Path) -> Result<bool, Failure> {
        let text = match std::fs::read_to_string(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            other => TokenText::new(other.map_err(io("read", file))?.trim()),
        };
        let tokens = TokenFile::load_or_new(&self.config.tokens_file()).map_err(token::failure)?;
        Ok(tokens.find(&text).is_some())
    }

    fn show_token(&self) -> Result<(), Failure> {
        match self.token_file.exists() {
            // It is the site's: the step before has looked.
            true => remove(&beside(&self.token_file)),
            false => publish(&self.token_file),
        }
    }

    fn write_configuration(&self) -> Result<(), Failure> {
        write(&beside(&self.file), TEMPLATE.as_bytes())?;
        publish(&self.file)
    }
}

fn is_there(file: &Path) -> Failure {
    Failure::new(Code::Refused, format!("{}: it is there already, and is left as it is", file.display()))
        .hint("start the daemon with: leeward server; or name another place with --config")
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let place = path.display().to_string();
    move |error| {
        Failure::new(Code::Io, format!("{place}: cannot {action}: {error}"))
            .hint("name another place with --config")
    }
}

fn make(directory: &Path) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(io("make the directory", directory))
}

/// Where a file lies until it is whole. Nobody else uses that name: what is there was left by an earlier attempt.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

/// Writes a file for its owner alone.
fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    // Not written over: what was left there may have other rights.
    remove(path)?;
    let opened = File::options().write(true).create_new(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    written.map_err(io("write", path))
}

fn remove(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(io("remove", path)),
    }
}

/// Gives a file that was written beside it its name, whole and for good. One that has the name already stays as it is.
fn publish(path: &Path) -> Result<(), Failure> {
    let whole = beside(path);
    let renamed = match renameat_with(CWD, &whole, CWD, path, RenameFlags::NOREPLACE) {
        // NFS, for one, cannot do it in one step.
        Err(Errno::INVAL | Errno::NOSYS) => {
            std::fs::hard_link(&whole, path).and_then(|()| std::fs::remove_file(&whole))
        }
        other => other.map_err(Into::into),
    };
    renamed.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => is_there(path),
        _ => io("write", path)(error),
    })?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io("write", directory))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn set_up(file: &Path) -> Result<(), Failure> {
        let site = NewSite::at(file)?;
        STEPS.iter().try_for_each(|step| step(&site))
    }

    /// Whether everything is there, once, and for nobody else to read.
    fn check(folder: &Path) {
        let config = Config::load(&folder.join("site.toml")).unwrap();
        let tokens = TokenFile::load(&config.tokens_file()).unwrap();
        let text = std::fs::read_to_string(folder.join("admin.token")).unwrap();
        assert_eq!(tokens.find(&TokenText::new(text.trim())).unwrap().name, "admin");
        assert_eq!(tokens.tokens.len(), 1);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            names.push(entry.file_name().into_string().unwrap());
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{names:?}");
        }
        names.sort();
        assert_eq!(names, ["admin.token", "inbox", "site.toml", "state"]);
    }

    #[test]
    fn a_site_that_was_half_made_is_made_whole_by_the_next_attempt() {
        for done in 0..=STEPS.len() {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("site.toml");
            let site = NewSite::at(&file).unwrap();
            STEPS[..done].iter().for_each(|step| step(&site).unwrap());
            let text = std::fs::read_to_string(&site.token_file).ok();
            if done < STEPS.len() {
                set_up(&file).unwrap();
            }
            check(folder.path());
            if let Some(text) = text {
                assert_eq!(
                    std::fs::read_to_string(&site.token_file).unwrap(),
                    text,
                    "who has it may keep it"
                );
            }
            assert_eq!(set_up(&file).unwrap_err().code(), Code::Refused);
        }
    }

    #[test]
    fn what_a_step_left_half_written_is_written_anew() {
        // Killed in the middle of a write, before its text was made known, and between a file's two names.
        let half: [&dyn Fn(&NewSite); 4] = [
            &|site| std::fs::write(beside(&site.token_file), "").unwrap(),
            &|site| std::fs::write(beside(&site.token_file), "lw_nobody-knows-it\n").unwrap(),
            &|site| std::fs::write(beside(&site.file), &TEMPLATE[..100]).unwrap(),
            &|site| {
                site.make_token().unwrap();
                std::fs::hard_link(beside(&site.token_file), &site.token_file).unwrap();
            },
        ];
        for leave in half {
            let folder = tempfile::tempdir().unwrap();
            let site = NewSite::at(&folder.path().join("site.toml")).unwrap();
            site.make_directories().unwrap();
            leave(&site);
            set_up(&site.file).unwrap();
            check(folder.path());
        }
    }

    #[test]
    fn what_belongs_to_others_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("site.toml");
        std::fs::write(folder.path().join("admin.token"), "of another site").unwrap();
        assert_eq!(set_up(&file).unwrap_err().code(), Code::Refused);
        assert_eq!(std::fs::read_to_string(folder.path().join("admin.token")).unwrap(), "of another site");
        assert!(!file.exists());
    }
}
