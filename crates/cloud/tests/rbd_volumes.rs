//! A pool of RBD as a provider of volumes. Runs where the test bed `ceph` is up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod conformance;

use std::path::PathBuf;
use std::process::Command;

use conformance::{delete, live, make, owner, spec};
use leeward_cloud::ErrorKind;
use leeward_cloud::provider::{AttachmentKind, AttachmentSpec, Cloud, Device, VolumeId};
use leeward_cloud::rbd::RbdVolumes;

/// The pool `rbd` of the test bed, and its configuration; says loudly why not.
fn bed() -> Option<(Cloud, PathBuf)> {
    let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
    let configuration = beds.join("ceph/ceph.conf");
    let listed = Command::new("timeout")
        .args(["20", "rbd", "--conf"])
        .arg(&configuration)
        .args(["ls", "rbd"])
        .output();
    if !listed.is_ok_and(|output| output.status.success()) {
        println!(
            "SKIPPED: the test bed ceph is not up ({}), or rbd is not installed",
            configuration.display()
        );
        return None;
    }
    let pool = RbdVolumes::at(&format!("rbd:rbd?id=admin&conf={}", configuration.display())).unwrap();
    Some((pool.cloud(), configuration))
}

#[test]
fn a_pool_keeps_every_promise_of_volumes() {
    let Some((cloud, _)) = bed() else { return };
    conformance::volumes(&cloud);
}

#[test]
fn a_pool_keeps_every_promise_of_attachments() {
    let Some((cloud, _)) = bed() else { return };
    let here = cloud.attachments().unwrap().here().unwrap().unwrap();
    conformance::attachments(&cloud, &here.instance);
}

#[test]
fn an_image_without_a_record_is_taken_over_and_others_are_left_alone() {
    let Some((cloud, configuration)) = bed() else { return };
    let rbd = |arguments: &[&str]| {
        let output = Command::new("rbd").arg("--conf").arg(&configuration).args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let wanted = spec(&cloud, owner("create"));
    let volume = make(&cloud, &wanted);
    let image = format!("rbd/{}", volume.id);
    assert!(volume.id.as_str().starts_with("disk1.qcow2-"), "{}", volume.id);
    assert!(rbd(&["info", &image]).0);
    // As it is when an attempt ends between making the image and writing about it.
    assert!(rbd(&["image-meta", "remove", &image, "leeward"]).0);
    assert!(live(&cloud, &wanted.owner.run).is_empty());
    assert_eq!(make(&cloud, &wanted).id, volume.id);
    assert_eq!(live(&cloud, &wanted.owner.run).len(), 1);
    let attachment = AttachmentSpec {
        volume: volume.id.clone(),
        instance: cloud.attachments().unwrap().here().unwrap().unwrap().instance,
        kind: AttachmentKind::Paravirtualized,
        device: None,
        read_only: false,
        owner: owner("attach"),
    };
    let attached = cloud.attachments().unwrap().attach(&attachment).unwrap();
    let address = format!("rbd:{image}?conf={}&id=admin", configuration.display());
    assert_eq!(attached.device, Some(Device::Rbd(address)));
    cloud.attachments().unwrap().detach(&attached.id).unwrap();
    // A snapshot, which somebody else made, stands in the way of removing.
    assert!(rbd(&["snap", "create", "--no-progress", &format!("{image}@theirs")]).0);
    let refused = cloud.volumes.delete_volume(&volume.id).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    assert!(rbd(&["snap", "rm", "--no-progress", &format!("{image}@theirs")]).0);
    delete(&cloud, &volume.id);
    assert!(!rbd(&["info", &image]).0);

    let theirs = format!("theirs-{}", std::process::id());
    assert!(rbd(&["create", "--size=1M", &format!("rbd/{theirs}")]).0);
    assert!(cloud.volumes.volumes().unwrap().iter().all(|volume| volume.id.as_str() != theirs));
    cloud.volumes.delete_volume(&VolumeId::new(theirs.clone())).unwrap();
    assert!(rbd(&["info", &format!("rbd/{theirs}")]).0, "what is not Leeward's is not removed");
    assert!(rbd(&["rm", "--no-progress", &format!("rbd/{theirs}")]).0);
}
