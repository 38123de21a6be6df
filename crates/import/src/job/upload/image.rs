//! The bytes of a disk into an image of the provider's, and whether they arrived.

use leeward_cloud::ErrorKind;
use leeward_cloud::provider::{Filling, Goal, Image, ImageId, ImageState, Progress, RUN_TAG};
use leeward_remote::http::Bytes;
use leeward_runs::state::Level;
use leeward_runs::step::Fault;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::super::fault::{self, Watching};
use super::super::volume::images_made;
use super::{Drafted, Job, Kept, disguise, record};
use crate::DigestCheck;
use crate::digest::hex;
use crate::identity::SourceIdentity;
use crate::image::Disk;
use crate::pour::{Piece, PourOptions, Stopped, pour};

/// Zeros are sent in parts of this, in bytes.
const ZEROS_BYTES: usize = 1 << 20;
/// How often an image is looked at whose bytes were all sent, a poll interval apart, before it is given up.
const LOOKS: usize = 40;
/// How often images are looked for by who must miss none.
const REMOVAL_LOOKS: usize = 3;

/// An image whose bytes were all sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Filled {
    /// The provider's name of it.
    pub image: ImageId,
    /// Of which disk.
    pub source: SourceIdentity,
    /// How many bytes.
    pub bytes: u64,
    /// Those of data among them.
    pub data_bytes: u64,
    /// Their digest, in hexadecimal digits.
    pub digest: String,
    /// What came of the digests that are stated for the object.
    pub object_digest: DigestCheck,
}

/// The digest that a provider computes.
enum Hasher {
    Sha512(Box<Sha512>),
    Sha384(Box<Sha384>),
    Sha256(Box<Sha256>),
}

impl Hasher {
    fn new(algorithm: &str) -> Result<Self, Fault> {
        match algorithm {
            "sha512" => Ok(Self::Sha512(Box::default())),
            "sha384" => Ok(Self::Sha384(Box::default())),
            "sha256" => Ok(Self::Sha256(Box::default())),
            other => Err(Fault::lasting(
                format!("the cloud's digests of images are {other}, which is not computed here"),
                "set hashing_algorithm of Glance to sha512, its default, sha384 or sha256",
            )),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha512(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// In hexadecimal digits.
    fn finish(self) -> String {
        match self {
            Self::Sha512(hasher) => hex(&hasher.finalize()),
            Self::Sha384(hasher) => hex(&hasher.finalize()),
            Self::Sha256(hasher) => hex(&hasher.finalize()),
        }
    }
}

impl Job<'_> {
    /// An image that holds this disk, which is proved by its digest: the one that an attempt before has sent, else a new one.
    pub(super) fn filled(&self, kept: &mut Kept, disk: &Disk, draft: &Drafted) -> Result<Filled, Fault> {
        if let Some(filled) = kept.filled.take().filter(|filled| filled.source == *disk.identity()) {
            if self.is_proved(kept, &filled)? {
                self.context.say(format!("image {} holds the disk already", filled.image));
                kept.filled = Some(filled.clone());
                return Ok(filled);
            }
            self.delete_image(&filled.image)?;
        }
        let image = self.empty_image(kept, draft)?;
        let filled = self.send(kept, disk, &image)?;
        if self.is_proved(kept, &filled)? {
            let Filled { image, bytes, .. } = &filled;
            self.context.say(format!(
                "image {image} has {bytes} bytes, and the {} that the cloud computed of them is that of what was read",
                kept.algorithm
            ));
            return Ok(filled);
        }
        kept.filled = None;
        self.context.keep(&*kept)?;
        self.delete_image(&filled.image)?;
        Err(Fault::passing(
            format!("image {} did not become whole, and was removed", filled.image),
            "it is sent again; see that the cloud's image service has room",
        ))
    }

    /// A record without bytes; one in which bytes of a lost attempt are is removed first, as nothing can be added to them.
    fn empty_image(&self, kept: &mut Kept, draft: &Drafted) -> Result<Image, Fault> {
        let is_filled =
            |image: &Image| draft.volume.owner.owns(&image.tags) && image.state.state != ImageState::Empty;
        for image in self.own_images()?.into_iter().filter(is_filled) {
            self.context.say(format!(
                "image {} is {} from an attempt that broke off; it is removed, and all is sent again",
                image.id, image.state.word
            ));
            self.delete_image(&image.id)?;
        }
        let image =
            self.images.create_image(&record(&draft.volume)).map_err(|error| fault::of_cloud(&error))?;
        // Before it has any bytes: by this it is known as this run's.
        kept.images.insert(image.id.clone());
        self.context.keep(&*kept)?;
        Ok(image)
    }

    /// Sends all bytes of a disk. What was sent is kept before the answer is waited for: it may be lost.
    fn send(&self, kept: &mut Kept, disk: &Disk, image: &Image) -> Result<Filled, Fault> {
        let bytes = disk.virtual_size();
        let mut hasher = Hasher::new(&kept.algorithm)?;
        let mut filling = self.images.fill(&image.id, bytes).map_err(|error| fault::of_cloud(&error))?;
        let zeros = Bytes::from(vec![0; ZEROS_BYTES]);
        let mut is_begun = false;
        let mut take = |piece: Piece| -> Result<(), Fault> {
            let mut give = |filling: &mut dyn Filling, bytes: Bytes| {
                self.context.check()?;
                hasher.update(&bytes);
                filling.push(bytes).map_err(|error| fault::of_cloud(&error))
            };
            match piece {
                Piece::Data(data) => {
                    if !is_begun {
                        disguise::refuse(&data, bytes)?;
                    }
                    give(filling.as_mut(), Bytes::from(data))?;
                }
                Piece::Zeros(mut length) => {
                    while length > 0 {
                        let part = length.min(ZEROS_BYTES as u64);
                        give(filling.as_mut(), zeros.slice(..part as usize))?;
                        length -= part;
                    }
                }
            }
            is_begun = true;
            Ok(())
        };
        let options = PourOptions { limit: self.target.limit.clone(), ..PourOptions::default() };
        let watching = Watching { context: self.context, note: "sending" };
        let poured = pour(disk, &options, &watching, &mut take).map_err(|stopped| match stopped {
            _ if self.context.is_stopped() => Fault::Stopped,
            Stopped::Read(error) => fault::of_import(&error),
            Stopped::Taken(fault) => fault,
        })?;
        let filled = Filled {
            image: image.id.clone(),
            source: disk.identity().clone(),
            bytes,
            data_bytes: poured.data_bytes,
            digest: hasher.finish(),
            object_digest: poured.digest,
        };
        kept.filled = Some(filled.clone());
        self.context.keep(&*kept)?;
        if let Err(error) = filling.finish() {
            // It may have all of them though its answer was lost: its digest tells.
            let text = leeward_store::with_causes(&error);
            self.context.log(Level::Warning, &text);
            if !matches!(error.kind(), ErrorKind::Passing | ErrorKind::Io) {
                return Err(fault::of_cloud(&error));
            }
        }
        Ok(filled)
    }

    /// Whether an image has become whole, with the digest of what was read.
    fn is_proved(&self, kept: &mut Kept, filled: &Filled) -> Result<bool, Fault> {
        for look in 0..LOOKS {
            let image = match self.images.image(&filled.image) {
                Ok(image) => image,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(fault::of_cloud(&error)),
            };
            match image.state.progress(Goal::Use) {
                Progress::Ready => return self.is_same(kept, filled, &image),
                // Nobody sends to it any more: it stays so.
                _ if image.state.state == ImageState::Empty => return Ok(false),
                Progress::Broken => return Ok(false),
                Progress::Changing if look + 1 < LOOKS => self.context.wait(self.images.poll_interval())?,
                Progress::Changing => {}
            }
        }
        Ok(false)
    }

    fn is_same(&self, kept: &mut Kept, filled: &Filled, image: &Image) -> Result<bool, Fault> {
        let Some(told) = &image.digest else {
            return Err(Fault::lasting(
                format!("the cloud tells no digest of image {}", image.id),
                "an image service older than Glance 17 (Rocky) cannot be used",
            ));
        };
        if told.algorithm != kept.algorithm {
            Hasher::new(&told.algorithm)?;
            self.context
                .say(format!("the cloud's digests are {}: it is computed from now on", told.algorithm));
            kept.algorithm.clone_from(&told.algorithm);
            return Ok(false);
        }
        let is_same = told.value.eq_ignore_ascii_case(&filled.digest) && image.bytes == Some(filled.bytes);
        if !is_same {
            self.context.log(
                Level::Error,
                &format!(
                    "image {} holds {} bytes with the {} {}, and {} with {} were read",
                    image.id,
                    image.bytes.unwrap_or(0),
                    told.algorithm,
                    told.value,
                    filled.bytes,
                    filled.digest
                ),
            );
        }
        Ok(is_same)
    }

    /// Removes an image, if the cloud lets it go.
    pub(super) fn let_go(&self, id: &ImageId) -> Result<(), Fault> {
        match self.images.delete_image(id) {
            // A store that makes volumes as clones of images keeps the image as long as the volume.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let why = leeward_store::with_causes(&error);
                let what = format!("the cloud does not let image {id} go ({why}); remove it with the volume");
                self.context.log(Level::Warning, &what);
                Ok(())
            }
            Err(error) => Err(fault::of_cloud(&error)),
            Ok(()) => {
                self.delete_image(id)?;
                self.context.say(format!("image {id} is removed"));
                Ok(())
            }
        }
    }

    /// Removes an image and waits until it is gone.
    pub(super) fn delete_image(&self, id: &ImageId) -> Result<(), Fault> {
        self.images.delete_image(id).map_err(|error| fault::of_cloud(&error))?;
        loop {
            let state = self.images.image(id).map(|image| image.state);
            match leeward_cloud::provider::ending(state).map_err(|error| fault::of_cloud(&error))? {
                Progress::Ready => return Ok(()),
                Progress::Changing => self.context.wait(self.images.poll_interval())?,
                Progress::Broken => {
                    return Err(Fault::passing(
                        format!("image {id} does not go"),
                        format!("remove it: openstack image delete {id}"),
                    ));
                }
            }
        }
    }

    /// The images of this run that are not gone. Those that somebody made of a volume of this run have its tags as well, and
    /// are none of them.
    pub(super) fn own_images(&self) -> Result<Vec<Image>, Fault> {
        let run = self.context.run_id().as_str();
        let mut found = self.images.images_tagged(RUN_TAG, run).map_err(|error| fault::of_cloud(&error))?;
        let mut known = images_made(self.context)?;
        known.extend(Kept::read(self.context)?.images);
        found.retain(|image| {
            let is_mine = image.state.state == ImageState::Empty || known.contains(&image.id);
            is_mine && image.state.is_live()
        });
        Ok(found)
    }

    /// Removes all images of this run. One whose making was begun last may be missing from a list for a while.
    pub(super) fn remove_images(&self) -> Result<(), Fault> {
        for look in 0..REMOVAL_LOOKS {
            let found = self.own_images()?;
            for image in &found {
                self.let_go(&image.id)?;
            }
            if !found.is_empty() {
                return Ok(());
            }
            if look + 1 < REMOVAL_LOOKS {
                self.context.wait(self.images.poll_interval())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Hasher;

    #[test]
    fn digests_are_those_of_the_cloud() {
        let of = |algorithm: &str| {
            let mut hasher = Hasher::new(algorithm).unwrap();
            hasher.update(b"abc");
            hasher.finish()
        };
        assert!(of("sha512").starts_with("ddaf35a193617abacc417349ae204131"));
        assert!(of("sha384").starts_with("cb00753f45a35e8bb5a03d699ac65007"));
        assert!(of("sha256").starts_with("ba7816bf8f01cfea414140de5dae2223"));
        assert!(Hasher::new("md5").is_err());
    }
}
