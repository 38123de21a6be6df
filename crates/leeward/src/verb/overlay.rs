//! Overlays as the verbs see them: the file, the snapshot under it, and who serves it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use leeward_disk::overlay::{GRANULE_BYTES, Overlay};
use leeward_disk::{SharedSource, Source};
use leeward_repository::{Repository, SnapshotId, SnapshotSource};
use serde::{Deserialize, Serialize};

use crate::failure::{Code, Failure};

/// What a source is called that is an overlay.
pub const SCHEME: &str = "overlay:";

/// What lies under an overlay, as its map has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Identity of the repository.
    pub repository: String,
    /// The image when the overlay was made.
    pub image: String,
    /// The snapshot.
    pub snapshot: SnapshotId,
}

impl Base {
    /// The base that a snapshot is.
    pub fn of(repository: &Repository, source: &SnapshotSource, id: SnapshotId) -> Self {
        Self {
            repository: repository.config().repository_id.clone(),
            image: source.snapshot().image.clone(),
            snapshot: id,
        }
    }

    /// What the overlay at `path` lies on.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        if !Overlay::exists(path) {
            return Err(Failure::new(Code::NotFound, format!("{}: there is no overlay here", path.display()))
                .hint("an overlay is a disk with a file of the same name and .map beside it; `leeward export --cow` makes one"));
        }
        let description = Overlay::describe(path)?;
        serde_json::from_str(&description.base).map_err(|_| {
            Failure::new(
                Code::Damaged,
                format!("{}: its map does not say on which snapshot it lies", path.display()),
            )
        })
    }

    /// For messages.
    pub fn label(&self) -> String {
        format!("{}@{}", self.image, self.snapshot.short())
    }

    /// Refuses a repository that does not have the snapshot.
    pub fn check_repository(&self, repository: &Repository, path: &Path) -> Result<(), Failure> {
        if repository.config().repository_id == self.repository {
            return Ok(());
        }
        Err(Failure::new(
            Code::Refused,
            format!(
                "{}: the overlay lies on {} of the repository {}, and {} is the repository {}",
                path.display(),
                self.label(),
                self.repository,
                repository.location(),
                repository.config().repository_id
            ),
        )
        .hint("name the repository that it was made from with -r"))
    }
}

/// Opens an overlay that is there, over its snapshot.
pub fn open(path: &Path, repository: &Repository) -> Result<(Overlay, Base), Failure> {
    let base = Base::read(path)?;
    base.check_repository(repository, path)?;
    let source: SharedSource = Arc::new(repository.source(base.snapshot)?);
    Ok((open_over(path, source)?, base))
}

/// Opens an overlay that is there.
pub fn open_over(path: &Path, base: SharedSource) -> Result<Overlay, Failure> {
    let overlay = Overlay::open(path, base)?;
    let torn = overlay.torn_pages();
    if torn > 0 {
        eprintln!(
            "leeward: {}: {torn} parts of the map were not written whole; the state of the flush before is used",
            path.display()
        );
    }
    Ok(overlay)
}

/// Makes an overlay, or continues one that lies on the same snapshot.
pub fn create_or_continue(
    path: &Path,
    source: SharedSource,
    base: &Base,
) -> Result<(Overlay, bool), Failure> {
    if !Overlay::exists(path) {
        let description = serde_json::to_string(base)
            .map_err(|error| Failure::new(Code::Failed, format!("the base cannot be described: {error}")))?;
        return Ok((Overlay::create(path, source, GRANULE_BYTES, &description)?, false));
    }
    let found = Base::read(path)?;
    if (&found.repository, found.snapshot) != (&base.repository, base.snapshot) {
        return Err(Failure::new(
            Code::Refused,
            format!(
                "{}: the overlay lies on {} of the repository {}, not on {} of the repository {}",
                path.display(),
                found.label(),
                found.repository,
                base.label(),
                base.repository
            ),
        )
        .hint(format!("export {} to continue it, or name a new file with --cow", found.label())));
    }
    Ok((open_over(path, source)?, true))
}

/// The file that says where an overlay is served.
fn serving_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".serving");
    name.into()
}

/// Says beside an overlay where it is served, for as long as this lives.
pub struct Serving(PathBuf);

impl Serving {
    /// Writes the URL.
    pub fn announce(path: &Path, url: &str) -> Result<Self, Failure> {
        let name = serving_path(path);
        std::fs::write(&name, format!("{url}\n"))
            .map_err(|source| leeward_disk::Error::open(&name, "write", source))?;
        Ok(Self(name))
    }

    /// The URL that was written. An export that was killed leaves it behind, so it counts only while the overlay is in use.
    pub fn read(path: &Path) -> Option<String> {
        let text = std::fs::read_to_string(serving_path(path)).ok()?;
        let url = text.trim();
        (url.len() < 8192 && leeward_disk::nbd::NbdUrl::is_nbd(url)).then(|| url.to_owned())
    }

    /// Takes away what an export that was killed has left.
    pub fn forget(path: &Path) {
        let _ = std::fs::remove_file(serving_path(path));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Says in how far an overlay is complete.
pub fn describe(overlay: &Overlay) -> serde_json::Value {
    serde_json::json!({
        "virtual_size": overlay.virtual_size(),
        "local_bytes": overlay.local_bytes(),
        "changed_bytes": overlay.changed_bytes(),
        "complete": overlay.is_complete(),
    })
}
