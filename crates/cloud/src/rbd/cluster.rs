//! The `rbd` tool: snapshots, and what differs between two of them.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Location;
use crate::{Error, Result};

/// How long monitors and storage daemons may take to answer one request, in seconds.
const LIMITS: [&str; 3] =
    ["--client-mount-timeout=30", "--rados-mon-op-timeout=30", "--rados-osd-op-timeout=60"];

/// The cluster of an image, as the `rbd` tool reaches it.
#[derive(Debug, Clone)]
pub struct Cluster {
    image: Location,
    has_limits: bool,
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
struct Status {
    #[serde(default)]
    watchers: Vec<Watcher>,
}

#[derive(Deserialize)]
struct Watcher {
    address: String,
}

/// A pool, as the `ceph` tool tells of it.
#[derive(Deserialize)]
struct Pool {
    #[serde(rename = "pool_name")]
    name: String,
    #[serde(rename = "flags_names")]
    flags: String,
    #[serde(default)]
    quota_max_bytes: u64,
    #[serde(default)]
    quota_max_objects: u64,
}

impl Pool {
    fn lack_of_room(&self) -> Option<String> {
        let name = &self.name;
        let has = |wanted: &str| self.flags.split(',').any(|flag| flag == wanted);
        if has("full_quota") {
            let (bytes, objects) = (self.quota_max_bytes, self.quota_max_objects);
            return Some(format!(
                "the pool {name} has reached its quota (of {bytes} bytes and {objects} objects, 0 being none): remove images, or \
                 raise it with ceph osd pool set-quota {name} max_bytes BYTES"
            ));
        }
        has("full").then(|| format!("the pool {name} is full: remove images, or add storage"))
    }
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
        Self { image: image.without_snapshot(), has_limits: false }
    }

    /// The same for who would rather hear that a cluster does not answer than wait until it does: a minute for each request.
    #[must_use]
    pub fn within_limits(image: &Location) -> Self {
        Self { has_limits: true, ..Self::of(image) }
    }

    /// The addresses of the clients that have the image open to write it.
    ///
    /// # Errors
    /// There is no such image, the tool is missing, or the cluster does not answer.
    pub fn watchers(&self) -> Result<Vec<String>> {
        let status: Status = self.ask(&["status", "--format=json"])?;
        Ok(status.watchers.into_iter().map(|watcher| watcher.address).collect())
    }

    /// Why the pool takes nothing more, if it does not. A cluster that cannot be asked says nothing.
    #[must_use]
    pub fn lack_of_room(&self) -> Option<String> {
        let output = self.tool("ceph", &["osd", "pool", "ls", "detail", "--format=json"]).output().ok()?;
        let pools: Vec<Pool> = serde_json::from_slice(&output.stdout).ok()?;
        pools.into_iter().find(|pool| pool.name == self.image.pool)?.lack_of_room()
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
        let mut command = self.tool("rbd", arguments);
        command.arg(format!("--pool={}", self.image.pool));
        if let Some(image) = image {
            command.arg(format!("--image={image}"));
        }
        if let Some(namespace) = &self.image.namespace {
            command.arg(format!("--namespace={namespace}"));
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

    /// A tool with what says which cluster is meant.
    fn tool(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments);
        // Joined by `=`, so that no name can be taken for an option.
        if let Some(user) = &self.image.user {
            command.arg(format!("--id={user}"));
        }
        if let Some(configuration) = &self.image.configuration {
            command.arg(format!("--conf={}", configuration.to_string_lossy()));
        }
        if self.has_limits || program != "rbd" {
            command.args(LIMITS);
        }
        command.stdin(std::process::Stdio::null());
        command
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
    fn a_pool_without_room_says_why() {
        let pool = |flags: &str| Pool {
            name: "vms".to_owned(),
            flags: flags.to_owned(),
            quota_max_bytes: 4096,
            quota_max_objects: 0,
        };
        assert_eq!(pool("hashpspool,selfmanaged_snaps").lack_of_room(), None);
        let quota = pool("hashpspool,full,full_quota").lack_of_room().unwrap();
        assert!(quota.contains("quota (of 4096 bytes"), "{quota}");
        assert!(pool("full").lack_of_room().unwrap().contains("vms is full"));
        assert_eq!(pool("nearfull,fullish").lack_of_room(), None);
    }

    #[test]
    fn differences_come_in_order_and_apart() {
        let ranges = [(8, 4), (0, 2), (2, 2), (9, 1), (20, 0), (u64::MAX - 1, 9)];
        let found = ranges.into_iter().map(|(offset, length)| Difference { offset, length }).collect();
        assert_eq!(merged(found), [(0, 4), (8, 4), (u64::MAX - 1, 1)]);
    }
}
