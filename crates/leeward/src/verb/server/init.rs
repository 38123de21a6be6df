//! `leeward server init`: all that a new site needs.

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;

use leeward_api::token::{NewToken, Role, TokenFile};
use leeward_site::Config;
use leeward_site::config::TEMPLATE;

use crate::failure::{Code, Failure};
use crate::output::Output;

pub(super) fn run(file: &Path, output: &Output) -> Result<ExitCode, Failure> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make(directory)?;
    write_new(file, TEMPLATE.as_bytes())?;
    let config = Config::load(file).map_err(super::failure)?;
    make(&config.state)?;
    for source in config.sources.values().filter(|source| !source.location.contains("://")) {
        make(Path::new(&source.location))?;
    }
    let token_file = directory.join("admin.token");
    make_token(&config, &token_file)?;
    output.line(format!("Wrote {}, with what each key is for", file.display()));
    output.line(format!("An admin's token is in {}: it is what you log in with", token_file.display()));
    output.line("Start the daemon with: leeward server");
    if output.is_json() {
        output.json_line(&serde_json::json!({ "config": file, "token_file": token_file }));
    }
    Ok(ExitCode::SUCCESS)
}

fn make_token(config: &Config, token_file: &Path) -> Result<(), Failure> {
    let path = config.tokens_file();
    let failed = super::super::token::failure;
    let mut tokens = TokenFile::load_or_new(&path).map_err(failed)?;
    let new = NewToken {
        name: "admin".to_owned(),
        role: Role::Admin,
        prefixes: Vec::new(),
        quota_bytes: None,
        expires: None,
    };
    let text = tokens.add(new).map_err(failed)?;
    write_new(token_file, format!("{}\n", text.reveal()).as_bytes())?;
    tokens.save(&path).map_err(failed)
}

fn make(directory: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
        Failure::new(Code::Io, format!("{}: cannot make the directory: {error}", directory.display()))
            .hint("name another place with --config")
    })
}

/// Writes a file for its owner alone; one that is there stays as it is.
fn write_new(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let opened = File::options().write(true).create_new(true).mode(0o600).open(path);
    opened.and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all())).map_err(|error| {
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => Failure::new(
                Code::Refused,
                format!("{}: it is there already, and is left as it is", path.display()),
            )
            .hint("start the daemon with: leeward server; or name another place with --config"),
            _ => Failure::new(Code::Io, format!("{}: cannot be written: {error}", path.display())),
        }
    })
}
