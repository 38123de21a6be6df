//! Listings: all files under a folder.

use std::collections::HashMap;

use leeward_store::Result;

use super::files::Files;
use super::refusal::{lost, refused};
use super::session::Lost;
use super::wire::{Answer, Attributes, kind, status};

/// Folders that are read at the same time.
const FOLDERS_AT_ONCE: usize = 32;
/// How deep folders may lie, and how many files a listing may have: more is no repository.
const DEPTH_MAX: usize = 8;
const FILES_MAX: usize = 10_000_000;

impl Files<'_> {
    /// All files under a folder, by their paths below it, with their sizes; none if it is not there. Many folders are read
    /// at the same time. A file that is there all the while is shown.
    pub(super) fn list(&self, folder: &str) -> Result<Vec<(String, Attributes)>> {
        let mut exchange = self.session.exchange();
        let mut found = Vec::new();
        let mut folders = vec![String::new()];
        let mut opening: HashMap<u32, String> = HashMap::new();
        let mut reading: HashMap<u32, (String, Vec<u8>)> = HashMap::new();
        let sent = |sent: Result<u32, Lost>| sent.map_err(|error| lost(self.at, error));
        loop {
            while opening.len() + reading.len() < FOLDERS_AT_ONCE
                && let Some(below) = folders.pop()
            {
                let number = exchange.send(kind::OPENDIR, |message| {
                    message.bytes(format!("{folder}{below}").as_bytes());
                });
                opening.insert(sent(number)?, below);
            }
            if exchange.outstanding() == 0 {
                return Ok(found);
            }
            let (number, answer) = exchange.receive().map_err(|error| lost(self.at, error))?;
            let (below, handle) = match (opening.remove(&number), answer) {
                (Some(below), Answer::Handle(handle)) => (below, handle),
                // It was removed, so it is empty.
                (Some(_), Answer::Status(status::NO_SUCH_FILE, _)) => continue,
                (Some(_), answer) => return Err(refused(self.at, &answer)),
                (None, answer) => {
                    let (below, handle) =
                        reading.remove(&number).ok_or_else(|| self.at.nonsense("an answer to nothing"))?;
                    match answer {
                        Answer::Names(names) if !names.is_empty() => {
                            sort_in(&below, names, &mut folders, &mut found)
                        }
                        Answer::Status(status::EOF, _) => {
                            self.close(&handle);
                            continue;
                        }
                        Answer::Names(_) => return Err(self.at.nonsense("a listing that does not advance")),
                        answer => return Err(refused(self.at, &answer)),
                    }
                    (below, handle)
                }
            };
            if found.len() + folders.len() > FILES_MAX {
                return Err(self.at.nonsense("a listing without an end"));
            }
            let number = exchange.send(kind::READDIR, |message| {
                message.bytes(&handle);
            });
            reading.insert(sent(number)?, (below, handle));
        }
    }
}

/// Sorts what a folder holds into folders, which are to be read too, and files.
fn sort_in(
    below: &str,
    names: Vec<(String, Attributes)>,
    folders: &mut Vec<String>,
    found: &mut Vec<(String, Attributes)>,
) {
    for (name, attributes) in names {
        // Nothing of ours begins with a dot, and a name with a slash is a lie.
        if name.starts_with('.') || name.contains('/') {
            continue;
        }
        let path = format!("{below}/{name}");
        if attributes.is_folder() {
            if path.matches('/').count() <= DEPTH_MAX {
                folders.push(path);
            }
        } else if attributes.is_file() {
            found.push((path, attributes));
        }
    }
}
