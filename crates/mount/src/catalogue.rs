//! What there is: images and their snapshots, as names in directories.
//!
//! Listings read the list of images and the refs of those that are looked into, never a manifest, and remember both for
//! a second: what is new shows up, what was forgotten vanishes, and walking through the mount stays cheap.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use leeward_repository::{Error, ImageName, ImageRef, Repository, Result, SnapshotEntry, SnapshotId};

use crate::node::Node;

/// How long a look at the store is good for.
pub(crate) const FRESH: Duration = Duration::from_secs(1);
/// Refs that are remembered, at most.
const REFS_MAX: usize = 1024;
/// The name of the link to the last snapshot.
pub(crate) const LATEST: &str = "latest";
/// Follows the name of a nested image that a snapshot or [`LATEST`] already has. No image's name can hold it.
const MARK: char = '+';

/// Looks at the store, not too often.
pub(crate) struct Catalogue {
    repository: Repository,
    images: Mutex<Option<(Instant, Arc<BTreeSet<String>>)>>,
    refs: Mutex<HashMap<ImageName, (Instant, Arc<ImageRef>)>>,
}

impl Catalogue {
    pub(crate) fn new(repository: Repository) -> Self {
        Self { repository, images: Mutex::default(), refs: Mutex::default() }
    }

    fn images(&self) -> Result<Arc<BTreeSet<String>>> {
        let mut known = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, images)) = known.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(Arc::clone(images));
        }
        let images: BTreeSet<String> = self.repository.images()?.into_iter().map(String::from).collect();
        let images = Arc::new(images);
        *known = Some((Instant::now(), Arc::clone(&images)));
        Ok(images)
    }

    /// The ref of an image.
    pub(crate) fn image(&self, name: &ImageName) -> Result<Arc<ImageRef>> {
        let lock = || self.refs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, image)) = lock().get(name)
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(image));
        }
        let image = Arc::new(self.repository.image(name)?);
        let mut refs = lock();
        if refs.len() >= REFS_MAX {
            refs.retain(|_, (at, _)| at.elapsed() < FRESH);
        }
        if refs.len() < REFS_MAX {
            refs.insert(name.clone(), (Instant::now(), Arc::clone(&image)));
        }
        Ok(image)
    }

    /// A snapshot that its image still has.
    pub(crate) fn entry(&self, image: &ImageName, id: SnapshotId) -> Result<Option<SnapshotEntry>> {
        match self.image(image) {
            Ok(image) => Ok(image.entry(id).cloned()),
            Err(Error::NoImage { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The image of this name with its ref, if there is one.
    pub(crate) fn image_at(&self, name: &str) -> Result<Option<(ImageName, Arc<ImageRef>)>> {
        if !self.images()?.contains(name) {
            return Ok(None);
        }
        let Ok(name) = name.parse::<ImageName>() else { return Ok(None) };
        match self.image(&name) {
            Ok(image) => Ok(Some((name, image))),
            Err(Error::NoImage { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there is a directory of this name: an image, or the beginning of the names of some.
    pub(crate) fn is_directory(&self, name: &str) -> Result<bool> {
        let images = self.images()?;
        let below = below(name);
        Ok(name.is_empty()
            || images.contains(name)
            || images.range(below.clone()..).next().is_some_and(|image| image.starts_with(&below)))
    }

    /// What a directory holds, by name. An image whose ref cannot be read does not hide those below it: what is wrong
    /// with it goes to `tell`.
    pub(crate) fn list(&self, directory: &str, tell: impl Fn(&Error)) -> Result<Vec<(String, Node)>> {
        let mut entries = Vec::new();
        let image = self.image_at(directory).unwrap_or_else(|error| {
            tell(&error);
            None
        });
        if let Some((name, image)) = image {
            for snapshot in &image.snapshots {
                entries.push((snapshot_name(snapshot), Node::Snapshot(name.clone(), snapshot.id)));
            }
            if !image.snapshots.is_empty() {
                entries.push((LATEST.to_owned(), Node::Latest(name)));
            }
        }
        let taken: BTreeSet<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
        let (images, below) = (self.images()?, below(directory));
        let mut nested: Vec<(String, Node)> = Vec::new();
        let mut last = "";
        for image in images.range(below.clone()..).take_while(|image| image.starts_with(&below)) {
            let rest = &image[below.len()..];
            let segment = rest.split('/').next().unwrap_or(rest);
            // Names with one beginning need not stand beside each other: '-' and '.' sort before the slash.
            if segment == last {
                continue;
            }
            last = segment;
            let mark = if taken.contains(segment) { MARK.to_string() } else { String::new() };
            nested.push((format!("{segment}{mark}"), Node::Directory(format!("{below}{segment}"))));
        }
        nested.sort_by(|(one, _), (two, _)| one.cmp(two));
        nested.dedup_by(|(one, _), (two, _)| one == two);
        entries.extend(nested);
        Ok(entries)
    }

    /// What has this name in a directory.
    pub(crate) fn find(&self, directory: &str, name: &str) -> Result<Option<Node>> {
        let image = match self.image_at(directory) {
            // As in a listing.
            Err(Error::Damaged { .. }) => None,
            other => other?,
        };
        if let Some((image_name, image)) = image {
            if name == LATEST && !image.snapshots.is_empty() {
                return Ok(Some(Node::Latest(image_name)));
            }
            if let Some(entry) = image.snapshots.iter().find(|entry| snapshot_name(entry) == name) {
                return Ok(Some(Node::Snapshot(image_name, entry.id)));
            }
            // Shown under another name because its own is taken.
            if let Some(segment) = name.strip_suffix(MARK) {
                let taken = segment == LATEST && !image.snapshots.is_empty()
                    || image.snapshots.iter().any(|entry| snapshot_name(entry) == segment);
                let path = format!("{}{segment}", below(directory));
                return Ok((taken && self.is_directory(&path)?).then_some(Node::Directory(path)));
            }
        }
        if name.is_empty() || name.contains('/') {
            return Ok(None);
        }
        let path = format!("{}{name}", below(directory));
        Ok(self.is_directory(&path)?.then_some(Node::Directory(path)))
    }
}

/// What the names of everything in a directory begin with.
fn below(directory: &str) -> String {
    if directory.is_empty() { String::new() } else { format!("{directory}/") }
}

/// The name of a snapshot's directory: when its backup began, in UTC and to the second, and the beginning of its digest.
pub(crate) fn snapshot_name(entry: &SnapshotEntry) -> String {
    format!("{}-{}", entry.created.strftime("%Y-%m-%dT%H-%M-%SZ"), entry.id.short())
}
