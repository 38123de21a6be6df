//! Whether a backup of an image can be incremental.

use super::{ImageInfo, RbdSnapshot};

/// The moment from which an image was backed up: which snapshot of which image, by identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Identity of the image.
    pub image: String,
    /// Identity of the snapshot.
    pub snapshot: u64,
}

impl Moment {
    /// As it stands in a manifest, in the place of a bitmap's name: `rbd:IMAGE:SNAPSHOT`.
    #[must_use]
    pub fn to_record(&self) -> String {
        format!("rbd:{}:{}", self.image, self.snapshot)
    }

    /// Reads what [`Moment::to_record`] wrote.
    #[must_use]
    pub fn from_record(text: &str) -> Option<Self> {
        let (image, snapshot) = text.strip_prefix("rbd:")?.rsplit_once(':')?;
        Some(Self { image: image.to_owned(), snapshot: snapshot.parse().ok()? })
    }
}

/// The last snapshot in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Size of its disk in bytes.
    pub virtual_size: u64,
    /// The moment from which it was made, if it was made from an image of RBD.
    pub moment: Option<Moment>,
}

/// How an image is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// What differs from this snapshot of the image.
    Since(RbdSnapshot),
    /// All of it, for this reason.
    Full(String),
}

/// Decides how the snapshot `to` of an image is read. `present` are the image's snapshots.
#[must_use]
pub fn decide(
    known: Option<&Known>,
    info: &ImageInfo,
    present: &[RbdSnapshot],
    to: &RbdSnapshot,
    full: bool,
) -> Mode {
    let whole = |reason: &str| Mode::Full(reason.to_owned());
    if full {
        return whole("asked for by --full");
    }
    let Some(known) = known else { return whole("the image has no snapshot yet") };
    let Some(moment) = &known.moment else {
        return whole("the last snapshot was not made from an image of RBD");
    };
    if moment.image != info.id {
        return whole("the last snapshot was made from another image of RBD");
    }
    let Some(base) = present.iter().find(|snapshot| snapshot.id == moment.snapshot) else {
        return whole("the image's snapshot from which the last backup was made is gone");
    };
    if base.id > to.id {
        return whole("the last backup was made from a later snapshot of the image");
    }
    if base.size != to.size || known.virtual_size != to.size {
        return whole("the image was resized since the last backup");
    }
    Mode::Since(base.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: u64, size: u64) -> RbdSnapshot {
        RbdSnapshot { id, name: format!("s{id}"), size }
    }

    #[test]
    fn only_the_very_snapshot_of_the_last_backup_is_a_base() {
        let info = ImageInfo { id: "ab".to_owned(), size: 100 };
        let present = [snapshot(3, 100), snapshot(5, 100), snapshot(6, 200)];
        let known = |image: &str, id: u64| Known {
            virtual_size: 100,
            moment: Some(Moment { image: image.to_owned(), snapshot: id }),
        };
        let since = |known: Option<&Known>, to: &RbdSnapshot, full| decide(known, &info, &present, to, full);
        let good = known("ab", 3);
        assert_eq!(since(Some(&good), &present[1], false), Mode::Since(present[0].clone()));
        let unknown = Known { virtual_size: 100, moment: None };
        for (known, to, full) in [
            (None, &present[1], false),
            (Some(&unknown), &present[1], false),
            (Some(&known("other", 3)), &present[1], false),
            (Some(&known("ab", 4)), &present[1], false),
            (Some(&known("ab", 5)), &present[0], false),
            (Some(&good), &present[2], false),
            (Some(&good), &present[1], true),
        ] {
            assert!(matches!(since(known, to, full), Mode::Full(_)), "{known:?}");
        }
    }

    #[test]
    fn a_moment_survives_its_record() {
        let moment = Moment { image: "1a2b".to_owned(), snapshot: 7 };
        assert_eq!(Moment::from_record(&moment.to_record()), Some(moment));
        for other in ["leeward-0011-x", "rbd:x", "rbd:x:y"] {
            assert_eq!(Moment::from_record(other), None);
        }
    }
}
