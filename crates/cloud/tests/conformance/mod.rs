//! What every provider of volumes promises. Real ones are run through it.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::thread;
use std::time::{Duration, Instant};

use leeward_cloud::provider::{
    AttachmentId, AttachmentKind, AttachmentSpec, Cloud, Goal, InstanceId, Owner, Progress, RUN_TAG,
    Reported, State, Tags, Volume, VolumeId, VolumeSpec, choose_domain, ending,
};
use leeward_cloud::{ErrorKind, Result};

/// How long a state may take to come about.
const PATIENCE: Duration = Duration::from_secs(30);

/// An owner that nobody else is.
pub fn owner(step: &str) -> Owner {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    Owner::new(format!("test-{:016x}", u64::from_le_bytes(bytes)), step)
}

/// A volume of the smallest size.
pub fn spec(cloud: &Cloud, owner: Owner) -> VolumeSpec {
    let limits = cloud.volumes.volume_limits();
    let domains = cloud.volumes.domains().unwrap();
    VolumeSpec {
        name: "disk1.qcow2".to_owned(),
        bytes: limits.volume_bytes("test", (1 << 20) + 1).unwrap(),
        domain: choose_domain("test", &domains, 1, "").unwrap().name.clone(),
        performance: None,
        encryption_key: None,
        tags: Tags::from([("origin".to_owned(), "a bucket".to_owned())]),
        owner,
    }
}

/// Waits for a state, as the steps of a run do.
pub fn wait<S: State + std::fmt::Debug>(
    cloud: &Cloud,
    goal: Goal,
    ask: impl Fn() -> Result<Reported<S>>,
) -> Progress {
    let begun = Instant::now();
    loop {
        let progress = match goal {
            Goal::Use => ask().unwrap().progress(Goal::Use),
            Goal::End => ending(ask()).unwrap(),
        };
        if progress != Progress::Changing || begun.elapsed() > PATIENCE {
            return progress;
        }
        thread::sleep(cloud.volumes.poll_interval());
    }
}

pub fn usable(cloud: &Cloud, id: &VolumeId) -> Progress {
    wait(cloud, Goal::Use, || Ok(cloud.volumes.volume(id)?.state))
}

pub fn gone(cloud: &Cloud, id: &VolumeId) -> Progress {
    wait(cloud, Goal::End, || Ok(cloud.volumes.volume(id)?.state))
}

pub fn attached(cloud: &Cloud, id: &AttachmentId) -> Progress {
    wait(cloud, Goal::Use, || Ok(cloud.attachments()?.attachment(id)?.state))
}

pub fn detached(cloud: &Cloud, id: &AttachmentId) -> Progress {
    wait(cloud, Goal::End, || Ok(cloud.attachments()?.attachment(id)?.state))
}

/// The live volumes of a run.
pub fn live(cloud: &Cloud, run: &str) -> Vec<Volume> {
    let all = cloud.volumes.volumes_tagged(RUN_TAG, Some(run)).unwrap();
    all.into_iter().filter(|volume| volume.state.is_live()).collect()
}

pub fn make(cloud: &Cloud, spec: &VolumeSpec) -> Volume {
    let volume = cloud.volumes.create_volume(spec).unwrap();
    assert_eq!(usable(cloud, &volume.id), Progress::Ready);
    volume
}

pub fn delete(cloud: &Cloud, id: &VolumeId) {
    cloud.volumes.delete_volume(id).unwrap();
    assert_eq!(gone(cloud, id), Progress::Ready);
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Everything about volumes alone.
pub fn volumes(cloud: &Cloud) {
    a_step_makes_one_volume(cloud);
    what_cannot_be_is_refused(cloud);
    ids_from_outside_lead_nowhere_else(cloud);
    a_volume_grows_and_never_shrinks(cloud);
    what_was_removed_is_made_anew(cloud);
}

fn a_step_makes_one_volume(cloud: &Cloud) {
    let first = spec(cloud, owner("create"));
    let volume = make(cloud, &first);
    assert_eq!(
        (volume.name.as_str(), volume.bytes, &volume.domain),
        ("disk1.qcow2", first.bytes, &first.domain)
    );
    assert_eq!(volume.tags.get("origin").map(String::as_str), Some("a bucket"));
    assert!(first.owner.owns(&volume.tags));
    assert_eq!(cloud.volumes.create_volume(&first).unwrap().id, volume.id);
    let renamed = VolumeSpec { name: "other".to_owned(), ..first.clone() };
    assert_eq!(cloud.volumes.create_volume(&renamed).unwrap().id, volume.id);
    let larger = VolumeSpec { bytes: 2 * first.bytes, ..first.clone() };
    let refused = cloud.volumes.create_volume(&larger).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    assert!(refused.to_string().contains(volume.id.as_str()), "{refused}");
    assert_eq!(live(cloud, &first.owner.run).len(), 1);

    let other = VolumeSpec { owner: Owner::new(&first.owner.run, "another"), ..first.clone() };
    let second = make(cloud, &other);
    assert_ne!(second.id, volume.id);
    assert_eq!(live(cloud, &first.owner.run).len(), 2);
    delete(cloud, &volume.id);
    delete(cloud, &second.id);
    assert!(live(cloud, &first.owner.run).is_empty());
}

fn what_cannot_be_is_refused(cloud: &Cloud) {
    let good = spec(cloud, owner("create"));
    let tag = |key: &str, value: String| Tags::from([(key.to_owned(), value)]);
    let many = (0..1000).map(|number| (format!("k{number}"), String::new())).collect();
    for bad in [
        VolumeSpec { bytes: good.bytes + 1, ..good.clone() },
        VolumeSpec { bytes: 0, ..good.clone() },
        VolumeSpec { bytes: u64::MAX, ..good.clone() },
        VolumeSpec { domain: "nowhere".to_owned(), ..good.clone() },
        VolumeSpec { tags: tag("k", "v".repeat(5000)), ..good.clone() },
        VolumeSpec { tags: tag("", String::new()), ..good.clone() },
        VolumeSpec { tags: tag(RUN_TAG, "mine".to_owned()), ..good.clone() },
        VolumeSpec { tags: many, ..good.clone() },
    ] {
        let refused = cloud.volumes.create_volume(&bad).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    }
    assert!(live(cloud, &good.owner.run).is_empty());
}

fn ids_from_outside_lead_nowhere_else(cloud: &Cloud) {
    for id in
        ["", ".", "..", "../volumes", "a/b", "a?b=c", "a#b", "a b", "a%2fb", "\n", "ocid1.volume.oc1..none"]
    {
        let id = VolumeId::new(id);
        let asked = kind(cloud.volumes.volume(&id));
        assert!(matches!(asked, ErrorKind::NotFound | ErrorKind::Refused), "{id:?}: {asked:?}");
        assert!(cloud.volumes.grow_volume(&id, 1 << 40).is_err());
        let _ = cloud.volumes.delete_volume(&id);
    }
    cloud.volumes.delete_volume(&VolumeId::new("never-was")).unwrap();
    let Ok(attachments) = cloud.attachments() else { return };
    attachments.detach(&AttachmentId::new("never-was")).unwrap();
    assert_eq!(kind(attachments.attachment(&AttachmentId::new("never-was"))), ErrorKind::NotFound);
}

fn a_volume_grows_and_never_shrinks(cloud: &Cloud) {
    let small = spec(cloud, owner("create"));
    let volume = make(cloud, &small);
    let bytes = small.bytes + cloud.volumes.volume_limits().bytes_step;
    assert_eq!(cloud.volumes.grow_volume(&volume.id, bytes).unwrap().bytes, bytes);
    assert_eq!(usable(cloud, &volume.id), Progress::Ready);
    assert_eq!(cloud.volumes.grow_volume(&volume.id, bytes).unwrap().bytes, bytes);
    assert_eq!(kind(cloud.volumes.grow_volume(&volume.id, small.bytes)), ErrorKind::Refused);
    assert_eq!(cloud.volumes.volume(&volume.id).unwrap().bytes, bytes);
    delete(cloud, &volume.id);
}

fn what_was_removed_is_made_anew(cloud: &Cloud) {
    let spec = spec(cloud, owner("create"));
    for _ in 0..3 {
        let volume = make(cloud, &spec);
        assert_eq!(live(cloud, &spec.owner.run).len(), 1);
        delete(cloud, &volume.id);
        cloud.volumes.delete_volume(&volume.id).unwrap();
    }
    assert!(live(cloud, &spec.owner.run).is_empty());
}

/// Everything about attaching to a machine that is there.
pub fn attachments(cloud: &Cloud, instance: &InstanceId) {
    let volume = make(cloud, &spec(cloud, owner("create")));
    let wanted = AttachmentSpec {
        volume: volume.id.clone(),
        instance: instance.clone(),
        kind: AttachmentKind::Paravirtualized,
        device: None,
        read_only: false,
        owner: owner("attach"),
    };
    for _ in 0..2 {
        let attachment = cloud.attachments().unwrap().attach(&wanted).unwrap();
        assert_eq!(attached(cloud, &attachment.id), Progress::Ready);
        assert_eq!(cloud.attachments().unwrap().attach(&wanted).unwrap().id, attachment.id);
        let told = cloud.attachments().unwrap().attachment(&attachment.id).unwrap();
        assert_eq!((&told.volume, &told.instance, told.read_only), (&volume.id, instance, false));
        assert!(told.device.is_some());
        assert_eq!(cloud.attachments().unwrap().attachments_of(&volume.id).unwrap().len(), 1);

        let otherwise = AttachmentSpec { read_only: true, ..wanted.clone() };
        assert_eq!(kind(cloud.attachments().unwrap().attach(&otherwise)), ErrorKind::Conflict);
        assert_eq!(kind(cloud.volumes.delete_volume(&volume.id)), ErrorKind::Conflict);
        cloud.attachments().unwrap().detach(&attachment.id).unwrap();
        assert_eq!(detached(cloud, &attachment.id), Progress::Ready);
        cloud.attachments().unwrap().detach(&attachment.id).unwrap();
        assert!(cloud.attachments().unwrap().attachments_of(&volume.id).unwrap().is_empty());
    }
    let nowhere = AttachmentSpec { instance: InstanceId::new("none"), ..wanted.clone() };
    assert_eq!(kind(cloud.attachments().unwrap().attach(&nowhere)), ErrorKind::NotFound);
    delete(cloud, &volume.id);
    assert!(cloud.attachments().unwrap().attach(&wanted).is_err());
}
