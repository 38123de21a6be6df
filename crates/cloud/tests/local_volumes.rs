//! Volumes on this machine: a folder of files, and a device.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod conformance;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Arc;
use std::thread;

use conformance::{delete, live, make, owner, spec};
use leeward_cloud::ErrorKind;
use leeward_cloud::device::BlockDevice;
use leeward_cloud::directory::Directory;
use leeward_cloud::provider::{
    AttachmentKind, AttachmentSpec, Cloud, Device, Performance, Progress, VolumeSpec, VolumeState, ending,
};

fn folder() -> (tempfile::TempDir, Cloud) {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Directory::open(folder.path().join("volumes")).unwrap().cloud();
    (folder, cloud)
}

#[test]
fn a_folder_keeps_every_promise_of_volumes() {
    let (_folder, cloud) = folder();
    conformance::volumes(&cloud);
}

#[test]
fn a_folder_keeps_every_promise_of_attachments() {
    let (_folder, cloud) = folder();
    let here = cloud.attachments().unwrap().here().unwrap().unwrap();
    conformance::attachments(&cloud, &here.instance);
}

#[test]
fn a_volume_is_a_sparse_private_file_that_is_found_again() {
    let (folder, cloud) = folder();
    let wanted =
        VolumeSpec { bytes: 1 << 40, name: "../../disk 1.qcow2".to_owned(), ..spec(&cloud, owner("create")) };
    let volume = make(&cloud, &wanted);
    let faster = Performance::VpusPerGb(20);
    cloud.volumes.set_performance(&volume.id, &faster).unwrap();
    let path = folder.path().join(format!("volumes/{}.raw", volume.id));
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.len(), found.mode() & 0o777), (1 << 40, 0o600));
    assert!(found.blocks() < 100, "{} blocks", found.blocks());
    assert!(volume.id.as_str().starts_with("disk-1.qcow2-"), "{}", volume.id);
    let again = Directory::open(folder.path().join("volumes")).unwrap().cloud();
    let told = again.volumes.volume(&volume.id).unwrap();
    assert_eq!((told.name.as_str(), told.performance), ("../../disk 1.qcow2", Some(faster)));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing but the folder of volumes");
    delete(&again, &volume.id);
    assert_eq!(fs::read_dir(folder.path().join("volumes")).unwrap().count(), 1, "nothing but the lock");
}

#[test]
fn what_a_crash_leaves_is_taken_over_or_removed() {
    let (folder, cloud) = folder();
    let wanted = spec(&cloud, owner("create"));
    let volume = make(&cloud, &wanted);
    let file = |end: &str| folder.path().join(format!("volumes/{}{end}", volume.id));
    // Before the record: a file that nobody knows, with another size.
    let record = fs::read(file(".json")).unwrap();
    fs::remove_file(file(".json")).unwrap();
    fs::write(file(".raw"), b"old").unwrap();
    assert!(cloud.volumes.volumes().unwrap().is_empty());
    assert_eq!(make(&cloud, &wanted).id, volume.id);
    assert_eq!(fs::read(file(".raw")).unwrap(), vec![0; usize::try_from(wanted.bytes).unwrap()]);
    // While deleting, before and after the file went.
    for remove in [false, true] {
        make(&cloud, &wanted);
        let text = String::from_utf8(record.clone()).unwrap();
        fs::write(file(".json"), text.replace("\"available\"", "\"deleting\"")).unwrap();
        if remove {
            fs::remove_file(file(".raw")).unwrap();
        }
        let state = || Ok(cloud.volumes.volume(&volume.id)?.state);
        assert_eq!(ending(state()).unwrap(), Progress::Changing);
        cloud.volumes.delete_volume(&volume.id).unwrap();
        assert_eq!(ending(state()).unwrap(), Progress::Ready);
        assert!(!file(".raw").exists() && !file(".json").exists());
    }
    // A half record under its temporary name is nobody's.
    fs::write(folder.path().join("volumes/.record-x"), b"{").unwrap();
    assert!(cloud.volumes.volumes().unwrap().is_empty());
}

#[test]
fn a_damaged_folder_is_told_and_nothing_outside_is_touched() {
    let (folder, cloud) = folder();
    let wanted = spec(&cloud, owner("create"));
    let volume = make(&cloud, &wanted);
    let file = |end: &str| folder.path().join(format!("volumes/{}{end}", volume.id));
    fs::write(file(".raw"), b"short").unwrap();
    assert_eq!(cloud.volumes.volume(&volume.id).unwrap().state.state, VolumeState::Faulty);
    let outside = folder.path().join("outside");
    fs::write(&outside, vec![7; 1 << 20]).unwrap();
    fs::remove_file(file(".raw")).unwrap();
    symlink(&outside, file(".raw")).unwrap();
    assert_eq!(cloud.volumes.volume(&volume.id).unwrap().state.state, VolumeState::Faulty);
    assert!(cloud.volumes.grow_volume(&volume.id, 1 << 30).is_err());
    assert_eq!(fs::metadata(&outside).unwrap().len(), 1 << 20);
    for bad in [&b"{"[..], br#"{"version": 2}"#, b"", &vec![b' '; 2 << 20]] {
        fs::write(file(".json"), bad).unwrap();
        let told = cloud.volumes.volumes().unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Protocol, "{told}");
        assert!(told.to_string().contains(&*file(".json").to_string_lossy()), "{told}");
    }
    fs::remove_file(file(".json")).unwrap();
    symlink(&outside, file(".json")).unwrap();
    assert_eq!(cloud.volumes.volumes().unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn many_at_once_make_one_volume() {
    let (_folder, cloud) = folder();
    let wanted = Arc::new(spec(&cloud, owner("create")));
    let made: Vec<_> = (0..8)
        .map(|_| {
            let (cloud, wanted) = (cloud.clone(), Arc::clone(&wanted));
            thread::spawn(move || cloud.volumes.create_volume(&wanted).unwrap().id)
        })
        .collect();
    let mut ids: Vec<_> = made.into_iter().map(|thread| thread.join().unwrap()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(live(&cloud, &wanted.owner.run).len(), 1);
}

#[test]
fn a_device_is_lent_and_kept() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), vec![5; 1 << 20]).unwrap();
    let cloud = BlockDevice::at(file.path()).unwrap().cloud();
    let wanted = VolumeSpec { bytes: 1 << 20, ..spec_of_device(&cloud) };
    let volume = cloud.volumes.create_volume(&wanted).unwrap();
    assert_eq!(volume, cloud.volumes.create_volume(&wanted).unwrap());
    let larger =
        cloud.volumes.create_volume(&VolumeSpec { bytes: (1 << 20) + 512, ..wanted.clone() }).unwrap_err();
    assert_eq!(larger.kind(), ErrorKind::Limit, "{larger}");
    let attachment = AttachmentSpec {
        volume: volume.id.clone(),
        instance: cloud.attachments().unwrap().here().unwrap().unwrap().instance,
        kind: AttachmentKind::Paravirtualized,
        device: None,
        read_only: false,
        owner: owner("attach"),
    };
    let attached = cloud.attachments().unwrap().attach(&attachment).unwrap();
    assert_eq!(attached.device, Some(Device::Path(file.path().canonicalize().unwrap())));
    cloud.attachments().unwrap().detach(&attached.id).unwrap();
    assert_eq!(
        cloud.attachments().unwrap().attachment(&attached.id).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    cloud.volumes.delete_volume(&volume.id).unwrap();
    assert_eq!(fs::read(file.path()).unwrap(), vec![5; 1 << 20]);
    assert_eq!(BlockDevice::at("/dev/null").unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(BlockDevice::at("/nowhere").unwrap_err().kind(), ErrorKind::Io);
}

fn spec_of_device(cloud: &Cloud) -> VolumeSpec {
    VolumeSpec {
        name: "disk".to_owned(),
        bytes: 512,
        domain: cloud.volumes.domains().unwrap()[0].name.clone(),
        performance: None,
        encryption_key: None,
        tags: Default::default(),
        owner: owner("create"),
    }
}
