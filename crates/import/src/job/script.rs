//! What cloud-init runs on a temporary worker.
//!
//! A script of `sh`, as the first thing that an image's cloud-init can be given; it needs `curl` and `sha256sum`, which images
//! of all distributions have. The token stands in a file for root alone, never in arguments, where others would see it.

use std::path::Path;

use leeward_runs::step::Fault;
use zeroize::Zeroizing;

use super::worker::Temporary;
use crate::work::program;

/// The largest file that is put into the script, in bytes: providers take little more as user data.
const FILE_BYTES_MAX: u64 = 16 << 10;

/// What the script is made of.
pub(super) struct Script<'a> {
    run: &'a str,
    token: &'a str,
    server: &'a str,
    ca: Option<String>,
    prepare: String,
    /// Where the program is in the image, or the digest of the one that is fetched.
    program: Result<&'a Path, String>,
}

impl<'a> Script<'a> {
    /// Reads what is in files.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn new(temporary: &'a Temporary, run: &'a str, token: &'a str) -> Result<Self, Fault> {
        let program = match &temporary.program {
            Some(path) => Ok(path.as_path()),
            None => Err(program::sha256().map_err(super::fault::of_place)?),
        };
        Ok(Self {
            run,
            token,
            server: temporary.server.trim_end_matches('/'),
            ca: temporary.ca_file.as_deref().map(read).transpose()?,
            prepare: temporary.prepare_file.as_deref().map(read).transpose()?.unwrap_or_default(),
            program,
        })
    }
}

fn read(path: &Path) -> Result<String, Fault> {
    let hint = "see the settings of the target's temporary worker, then retry the step";
    let failed = |what: String| Fault::lasting(format!("{}: {what}", path.display()), hint);
    let length = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(failed(format!("it has {length} bytes; user data has room for {FILE_BYTES_MAX}")));
    }
    std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))
}

/// A text as one word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The script. `LEEWARD_ROOT` puts everything under another directory than `/`: so it can be tried out without a machine.
pub(super) fn script(script: &Script<'_>) -> Zeroizing<String> {
    let server = quoted(script.server);
    let (ca_file, ca_curl, ca_worker) = match &script.ca {
        Some(ca) => (
            format!("cat > \"$private/ca.pem\" <<'LEEWARD_END'\n{}\nLEEWARD_END\n", ca.trim_end()),
            "--cacert \"$private/ca.pem\" ",
            "--ca \"$private/ca.pem\" ",
        ),
        None => (String::new(), "", ""),
    };
    let program = match &script.program {
        Ok(path) => format!("program={}\n", quoted(&path.to_string_lossy())),
        Err(digest) => format!(
            r#"program=$root/var/lib/leeward-worker/leeward
mkdir -p "${{program%/*}}"
tries=0
until curl --fail --silent --show-error {ca_curl}--header @"$private/header" --output "$program" {server}/v1/work/binary
do
  tries=$((tries + 1))
  [ "$tries" -lt 60 ] || exit 1
  sleep 5
done
echo "{digest}  $program" | sha256sum --check --status
chmod 700 "$program"
"#
        ),
    };
    Zeroizing::new(format!(
        r#"#!/bin/sh
# Made by Leeward for run {run}: this machine writes its volume and is removed afterwards.
set -eu
umask 077
root=${{LEEWARD_ROOT:-}}
private=$root/run/leeward-worker
mkdir -p "$private"
cat > "$private/token" <<'LEEWARD_END'
{token}
LEEWARD_END
cat > "$private/header" <<'LEEWARD_END'
Authorization: Bearer {token}
LEEWARD_END
{ca_file}{prepare}
{program}exec "$program" worker --server {server} --token-file "$private/token" {ca_worker}--device-root "$root/" --once
"#,
        run = script.run,
        token = script.token,
        prepare = script.prepare.trim_end(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_one_and_keeps_the_token_out_of_arguments() {
        for (ca, program) in [
            (Some("CERTIFICATE".to_owned()), Err("00".repeat(32))),
            (None, Ok(Path::new("/usr/bin/lee'ward"))),
        ] {
            let made = script(&Script {
                run: "r",
                token: "lww_secret",
                server: "https://daemon:7443",
                ca,
                prepare: "echo prepared\n".to_owned(),
                program,
            });
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("script");
            std::fs::write(&path, made.as_bytes()).unwrap();
            let done = std::process::Command::new("sh").arg("-n").arg(&path).output().unwrap();
            assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stderr), *made);
            // The token stands in the two files that are written, and nowhere else.
            assert_eq!(made.matches("lww_secret").count(), 2, "{}", *made);
            assert!(
                made.lines().filter(|line| line.contains("lww_secret")).all(|line| !line.contains("curl"))
            );
        }
    }
}
