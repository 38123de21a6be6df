//! Cinder and Glance as a provider of volumes. Runs where the test bed `openstack` is up (`up primary`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod conformance;

use std::path::PathBuf;

use aws_lc_rs::digest::{SHA512, digest};
use conformance::{delete, owner, spec, usable};
use leeward_cloud::ErrorKind;
use leeward_cloud::openstack::{Openstack, Settings};
use leeward_cloud::provider::{
    Cloud, IMAGE_TAG, ImageId, ImageSpec, ImageState, Images, Performance, Progress, RUN_TAG, Tags,
    VolumeSpec,
};
use leeward_remote::Environment;
use leeward_remote::http::Bytes;

/// The cloud `primary` of the test bed; says loudly why not.
fn bed(name: &str) -> Option<Cloud> {
    let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
    let clouds = beds.join("openstack/clouds.yaml");
    let environment = Environment::of(&[("OS_CLIENT_CONFIG_FILE", clouds.to_str().unwrap())]);
    let settings =
        Settings { cloud: Some(name.to_owned()), poll_milliseconds: Some(300), ..Settings::default() };
    let cloud = Openstack::connect(&settings, &environment).map(Openstack::cloud);
    match cloud.map(|cloud| cloud.volumes.domains().map(|_| cloud)) {
        Ok(Ok(cloud)) => Some(cloud),
        Err(error) | Ok(Err(error)) => {
            println!("SKIPPED: the test bed openstack is not up ({}): {error}", clouds.display());
            None
        }
    }
}

#[test]
fn openstack_keeps_every_promise_of_volumes() {
    let Some(cloud) = bed("primary") else { return };
    assert!(cloud.attachments().is_err());
    conformance::volumes(&cloud);
}

fn ability(cloud: &Cloud) -> &dyn Images {
    cloud.images.as_deref().unwrap()
}

#[test]
fn a_volume_is_made_of_an_image_whose_digest_is_known() {
    let Some(cloud) = bed("primary") else { return };
    let images = ability(&cloud);
    let wanted = ImageSpec { name: "a disk".to_owned(), tags: Tags::new(), owner: owner("create") };
    let image = images.create_image(&wanted).unwrap();
    assert_eq!(image.state.state, ImageState::Empty);
    assert_eq!(images.create_image(&wanted).unwrap().id, image.id, "found again");
    let part: Vec<u8> =
        (0..1 << 20).map(|number: u32| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut filling = images.fill(&image.id, 3 << 20).unwrap();
    for _ in 0..3 {
        filling.push(Bytes::from(part.clone())).unwrap();
    }
    filling.finish().unwrap();
    let image = images.image(&image.id).unwrap();
    assert_eq!((image.state.state, image.bytes), (ImageState::Full, Some(3 << 20)));
    let digest = digest(&SHA512, &part.repeat(3));
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let told = image.digest.unwrap();
    assert_eq!((told.algorithm.as_str(), told.value), ("sha512", digest));

    let spec = VolumeSpec {
        performance: Some(Performance::Class("nfs".to_owned())),
        ..spec(&cloud, wanted.owner.clone())
    };
    images.check_room(&[spec.bytes]).unwrap();
    let refused = images.check_room(&[1 << 50]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Limit, "{refused}");
    let volume = images.volume_of_image(&spec, &image.id).unwrap();
    assert_eq!(usable(&cloud, &volume.id), Progress::Ready);
    assert_eq!(images.volume_of_image(&spec, &image.id).unwrap().id, volume.id, "found again");
    let other =
        images.volume_of_image(&spec, &ImageId::new("6e7a3b5c-0000-4000-8000-000000000001")).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Conflict, "{other}");
    assert_eq!(cloud.volumes.volume(&volume.id).unwrap().tags[IMAGE_TAG], image.id.as_str());
    images.set_bootable(&volume.id, false).unwrap();
    images.set_bootable(&volume.id, true).unwrap();
    assert_eq!(images.why_faulty(&volume.id).unwrap(), None);
    delete(&cloud, &volume.id);
    images.delete_image(&image.id).unwrap();
    images.delete_image(&image.id).unwrap();
    assert_eq!(images.image(&image.id).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(images.images_tagged(RUN_TAG, &wanted.owner.run).unwrap().is_empty());
}

#[test]
fn an_upload_that_breaks_off_is_no_image() {
    let Some(cloud) = bed("primary") else { return };
    let images = ability(&cloud);
    let wanted = ImageSpec { name: "broken".to_owned(), tags: Tags::new(), owner: owner("create") };
    let image = images.create_image(&wanted).unwrap();
    let mut filling = images.fill(&image.id, 64 << 20).unwrap();
    filling.push(Bytes::from(vec![1; 4 << 20])).unwrap();
    drop(filling);
    std::thread::sleep(std::time::Duration::from_secs(2));
    let left = images.image(&image.id).unwrap();
    println!(
        "an upload that broke off leaves an image that is {} with {:?} bytes",
        left.state.word, left.bytes
    );
    assert_ne!((left.state.state, left.bytes), (ImageState::Full, Some(64 << 20)));
    images.delete_image(&image.id).unwrap();
    assert_eq!(images.image(&image.id).unwrap_err().kind(), ErrorKind::NotFound);
    // One that has no record, or bytes already.
    let mut filling = images.fill(&image.id, 1 << 20).unwrap();
    let pushed = filling.push(Bytes::from(vec![1; 1 << 20])).and_then(|()| filling.finish());
    assert_eq!(pushed.unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_wrong_account_is_told() {
    if bed("primary").is_none() {
        return;
    }
    let environment = Environment::of(&[
        ("OS_AUTH_URL", "http://127.0.0.11:5000/v3"),
        ("OS_USERNAME", "demo"),
        ("OS_PASSWORD", "not-this"),
        ("OS_PROJECT_NAME", "demo"),
        ("OS_REGION_NAME", "RegionOne"),
    ]);
    let cloud = Openstack::connect(&Settings::default(), &environment).unwrap().cloud();
    let refused = cloud.volumes.volumes().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
    assert!(!refused.to_string().contains("not-this"));
}
