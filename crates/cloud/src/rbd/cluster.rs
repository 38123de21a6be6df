//! The `rbd` tool: snapshots, and what differs between two of them.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Location;
use crate::{Error, Result};

/// The cluster of an image, as the `rbd` tool reaches it.
#[derive(Debug, Clone)]
pub struct Cluster {
    image: Location,
}

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ImageInfo {
    /// Identity within its pool; a new image of the same name has another.
    pub id: String,
    /// Size in bytes.
    pub size: u64,
}

/// A snapshot of an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RbdSnapshot {
    /// Identity; snapshots that are made later have larger ones.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Size of the image then, in bytes.
    pub size: u64,
}

#[derive(Deserialize)]
struct Difference {
    offset: u64,
    length: u64,
}

impl Cluster {
    /// The cluster of an image; nothing is asked of it yet.
    #[must_use]
    pub fn of(image: &Location) -> Self {
        Self { image: image.without_snapshot() }
    }

    /// What the image is.
    ///
    /// # Errors
    /// There is no such image, the tool is missing, or the cluster does not answer.
    pub fn info(&self) -> Result<ImageInfo> {
        self.ask(&["info", "--format=json"])
    }

    /// The image's snapshots, oldest first.
    ///
    /// # Errors
    /// There is no such image, the tool is missing, or the cluster does not answer.
    pub fn snapshots(&self) -> Result<Vec<RbdSnapshot>> {
        let mut found: Vec<RbdSnapshot> = self.ask(&["snap", "ls", "--format=json"])?;
        found.sort_by_key(|snapshot| snapshot.id);
        Ok(found)
    }

    /// Makes a snapshot of the image as it is now.
    ///
    /// # Errors
    /// There is one of that name, or the cluster refuses.
    pub fn create_snapshot(&self, name: &str) -> Result<()> {
        self.run(&["snap", "create", "--no-progress", &format!("--snap={name}")]).map(|_| ())
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// It is protected, or the cluster refuses.
    pub fn remove_snapshot(&self, name: &str) -> Result<()> {
        self.run(&["snap", "rm", "--no-progress", &format!("--snap={name}")]).map(|_| ())
    }

    /// Offset and length in bytes of what differs between two snapshots, in order and apart.
    ///
    /// # Errors
    /// One of the snapshots is gone, or the cluster does not answer.
    pub fn difference(&self, from: &str, to: &str) -> Result<Vec<(u64, u64)>> {
        let found: Vec<Difference> =
            self.ask(&["diff", "--format=json", &format!("--from-snap={from}"), &format!("--snap={to}")])?;
        Ok(merged(found))
    }

    /// Makes an image of this size, which reads as zeros.
    ///
    /// # Errors
    /// There is one already, or the cluster refuses.
    pub fn create_image(&self, bytes: u64) -> Result<()> {
        self.run(&["create", &format!("--size={bytes}B")]).map(|_| ())
    }

    /// Makes the image this large; it is not made smaller.
    ///
    /// # Errors
    /// It would be made smaller, there is no such image, or the cluster refuses.
    pub fn resize_image(&self, bytes: u64) -> Result<()> {
        self.run(&["resize", "--no-progress", &format!("--size={bytes}B")]).map(|_| ())
    }

    /// Removes the image.
    ///
    /// # Errors
    /// There is no such image, somebody uses it, or it has snapshots.
    pub fn remove_image(&self) -> Result<()> {
        self.run(&["rm", "--no-progress"]).map(|_| ())
    }

    /// The image's metadata: keys and values that people and programs hang on it.
    ///
    /// # Errors
    /// There is no such image, the tool is missing, or the cluster does not answer.
    pub fn metadata(&self) -> Result<BTreeMap<String, String>> {
        // Without any, the tool prints nothing.
        let output = self.run(&["image-meta", "list", "--format=json"])?;
        if output.stdout.trim_ascii().is_empty() {
            Ok(BTreeMap::new())
        } else {
            self.read("image-meta", &output)
        }
    }

    /// Sets one of the image's metadata.
    ///
    /// # Errors
    /// There is no such image, or the cluster refuses.
    pub fn set_metadata(&self, key: &str, value: &str) -> Result<()> {
        self.run(&["image-meta", "set", key, value]).map(|_| ())
    }

    /// The names of all images of the pool and namespace.
    ///
    /// # Errors
    /// There is no such pool, the tool is missing, or the cluster does not answer.
    pub fn images(&self) -> Result<Vec<String>> {
        let output = self.run_in_pool(&["ls", "--format=json"], None)?;
        self.read("ls", &output)
    }

    fn ask<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let output = self.run(arguments)?;
        self.read(arguments[0], &output)
    }

    fn read<T: DeserializeOwned>(&self, asked: &str, output: &Output) -> Result<T> {
        serde_json::from_slice(&output.stdout).map_err(|error| Error::Protocol {
            peer: self.image.to_string(),
            what: format!("the rbd tool's answer to {asked} cannot be read: {error}"),
        })
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.run_in_pool(arguments, Some(&self.image.image))
    }

    fn run_in_pool(&self, arguments: &[&str], image: Option<&str>) -> Result<Output> {
        let mut command = Command::new("rbd");
        command.args(arguments);
        // Joined by `=`, so that no name can be taken for an option.
        let mut option = |name: &str, value: &str| {
            command.arg(format!("--{name}={value}"));
        };
        option("pool", &self.image.pool);
        if let Some(image) = image {
            option("image", image);
        }
        if let Some(namespace) = &self.image.namespace {
            option("namespace", namespace);
        }
        if let Some(user) = &self.image.user {
            option("id", user);
        }
        if let Some(configuration) = &self.image.configuration {
            option("conf", &configuration.to_string_lossy());
        }
        let output = command.output().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::Refused {
                peer: self.image.to_string(),
                what: "the rbd tool is not installed: on Debian it is in ceph-common".to_owned(),
            },
            _ => Error::io(self.image.to_string(), "run the rbd tool for", source),
        })?;
        if output.status.success() { Ok(output) } else { Err(self.failure(arguments, &output)) }
    }

    fn failure(&self, arguments: &[&str], output: &Output) -> Error {
        let said = String::from_utf8_lossy(&output.stderr);
        let last =
            said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim();
        let peer = self.image.to_string();
        // The tool ends with the errno.
        match output.status.code() {
            Some(2) => Error::NotFound { peer, what: last.to_owned() },
            code => Error::Command {
                peer,
                command: format!("rbd {}", arguments[0]),
                class: code.map_or("signal".to_owned(), |code| code.to_string()),
                description: last.to_owned(),
            },
        }
    }
}

/// Sorts what the tool told, and joins what touches.
fn merged(mut found: Vec<Difference>) -> Vec<(u64, u64)> {
    found.sort_by_key(|range| range.offset);
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for Difference { offset, length } in found {
        let end = offset.saturating_add(length);
        match ranges.last_mut() {
            Some(last) if last.0 + last.1 >= offset => last.1 = (last.0 + last.1).max(end) - last.0,
            _ if end > offset => ranges.push((offset, end - offset)),
            _ => {}
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_come_in_order_and_apart() {
        let ranges = [(8, 4), (0, 2), (2, 2), (9, 1), (20, 0), (u64::MAX - 1, 9)];
        let found = ranges.into_iter().map(|(offset, length)| Difference { offset, length }).collect();
        assert_eq!(merged(found), [(0, 4), (8, 4), (u64::MAX - 1, 1)]);
    }
}
