//! Instances, and volumes that are attached to them.

use leeward_cloud::ErrorKind;
use leeward_cloud::provider::{
    AttachmentKind, AttachmentSpec, Cloud, Device, Goal, Instance, InstanceId, InstanceSpec, Owner, Progress,
    RUN_TAG, Tags, UserData, VolumeId, VolumeSpec,
};
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::conformance::{self, attached, delete, detached, make, owner, spec, usable, wait};

fn instance_spec(bed: &Bed, cloud: &Cloud, owner: Owner) -> InstanceSpec {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    InstanceSpec {
        name: "convert".to_owned(),
        domain: cloud.volumes.domains().unwrap()[0].name.clone(),
        shape: "VM.Standard.E4.Flex".to_owned(),
        cpus: Some(1),
        memory_gib: Some(8),
        image: text(&bed.site["images"][0][0]),
        subnet: text(&bed.site["subnet"]),
        user_data: Some(UserData::new("#cloud-config\ntoken: hunter2\n")),
        ssh_keys: vec!["ssh-ed25519 AAAA a".to_owned()],
        tags: Tags::from([("instance_role".to_owned(), "worker".to_owned())]),
        defined_tags: Vec::new(),
        boot_volume_gib: Some(50),
        owner,
    }
}

fn running(cloud: &Cloud, id: &InstanceId) -> Progress {
    wait(cloud, Goal::Use, || Ok(cloud.instances.as_ref().unwrap().instance(id)?.state))
}

fn launch(bed: &Bed, cloud: &Cloud) -> Instance {
    let instance =
        cloud.instances.as_ref().unwrap().launch(&instance_spec(bed, cloud, owner("launch"))).unwrap();
    assert_eq!(running(cloud, &instance.id), Progress::Ready);
    instance
}

fn terminate(cloud: &Cloud, id: &InstanceId) {
    let instances = cloud.instances.as_ref().unwrap();
    instances.terminate(id).unwrap();
    assert_eq!(wait(cloud, Goal::End, || Ok(instances.instance(id)?.state)), Progress::Ready);
    instances.terminate(id).unwrap();
}

fn attachment(volume: &VolumeId, instance: &InstanceId) -> AttachmentSpec {
    AttachmentSpec {
        volume: volume.clone(),
        instance: instance.clone(),
        kind: AttachmentKind::Paravirtualized,
        device: None,
        read_only: false,
        owner: owner("attach"),
    }
}

#[test]
fn oci_keeps_every_promise_of_attachments() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let instance = launch(&bed, &cloud);
    conformance::attachments(&cloud, &instance.id);
    terminate(&cloud, &instance.id);
}

#[test]
fn an_instance_is_launched_once_has_an_address_and_goes() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let instances = cloud.instances.clone().unwrap();
    let wanted = instance_spec(&bed, &cloud, owner("launch"));
    bed.fault(json!({"operation": "LaunchInstance", "phase": "after", "action": "disconnect"}));
    let instance = instances.launch(&wanted).unwrap();
    assert_eq!(running(&cloud, &instance.id), Progress::Ready);
    // Another attempt has another token for the worker; it is the same instance all the same.
    let again = InstanceSpec { user_data: Some(UserData::new("other")), ..wanted.clone() };
    assert_eq!(instances.launch(&again).unwrap().id, instance.id);
    let address = instances.private_address(&instance.id).unwrap().unwrap();
    assert!(address.is_loopback(), "{address}");
    assert_eq!(instances.instances_tagged(RUN_TAG, Some(&wanted.owner.run)).unwrap().len(), 1);
    let elsewhere = InstanceSpec { shape: "VM.Standard2.1".to_owned(), ..wanted.clone() };
    let refused = instances.launch(&elsewhere).unwrap_err();
    assert!(
        refused.kind() == ErrorKind::Conflict && refused.to_string().contains(instance.id.as_str()),
        "{refused}"
    );
    terminate(&cloud, &instance.id);
    assert_eq!(instances.private_address(&instance.id).unwrap(), None);
    // Launched again after it went: a new one.
    let second = instances.launch(&wanted).unwrap();
    assert_ne!(second.id, instance.id);
    terminate(&cloud, &second.id);
    assert!(!format!("{wanted:?}").contains("hunter2"));
    let none = InstanceId::new("ocid1.instance.oc1..none");
    assert_eq!(instances.private_address(&none).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn an_instance_that_fails_is_broken_and_a_new_one_is_launched() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let instances = cloud.instances.clone().unwrap();
    let wanted = instance_spec(&bed, &cloud, owner("launch"));
    bed.fault(json!({"operation": "Transition:instance", "action": "fail"}));
    let failed = instances.launch(&wanted).unwrap();
    assert_eq!(running(&cloud, &failed.id), Progress::Broken);
    let second = instances.launch(&wanted).unwrap();
    assert_ne!(second.id, failed.id);
    terminate(&cloud, &second.id);
}

#[test]
fn limits_are_told_and_not_asked_again() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let wanted = spec(&cloud, owner("create"));
    bed.fault(
        json!({"operation": "CreateVolume", "status": 400, "code": "LimitExceeded", "message": "At most 3."}),
    );
    let (told, calls) = bed.calls("CreateVolume", || cloud.volumes.create_volume(&wanted).unwrap_err());
    assert_eq!((told.kind(), calls), (ErrorKind::Limit, 1));
    assert!(told.to_string().contains("At most 3.; see Limits"), "{told}");
    let full = json!({"operation": "LaunchInstance", "status": 500, "code": "InternalError",
        "message": "Out of host capacity."});
    bed.fault(full);
    let instance = instance_spec(&bed, &cloud, owner("launch"));
    let instances = cloud.instances.clone().unwrap();
    let (told, calls) = bed.calls("LaunchInstance", || instances.launch(&instance).unwrap_err());
    assert_eq!((told.kind(), calls), (ErrorKind::Limit, 1));
    assert!(told.to_string().contains("another availability domain"), "{told}");
    let large = InstanceSpec { user_data: Some(UserData::new("x".repeat(30_000))), ..instance };
    assert_eq!(instances.launch(&large).unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn a_volume_is_attached_to_one_machine_and_conflicts_name_the_other() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let (one, other) = (launch(&bed, &cloud), launch(&bed, &cloud));
    let volume = make(&cloud, &spec(&cloud, owner("create"))).id;
    let wanted =
        AttachmentSpec { device: Some("/dev/oracleoci/oraclevdb".into()), ..attachment(&volume, &one.id) };
    bed.fault(json!({"operation": "AttachVolume", "phase": "after", "action": "disconnect"}));
    let first = cloud.attachments().unwrap().attach(&wanted).unwrap();
    assert_eq!(attached(&cloud, &first.id), Progress::Ready);
    assert_eq!(cloud.attachments().unwrap().attachments_of(&volume).unwrap().len(), 1);
    let told = cloud.attachments().unwrap().attachment(&first.id).unwrap();
    assert_eq!(told.device, Some(Device::Path("/dev/oracleoci/oraclevdb".into())));
    let link = bed.state.join(format!("instances/{}/dev/oracleoci/oraclevdb", one.id));
    assert!(link.exists(), "{link:?}");
    let refused = cloud.attachments().unwrap().attach(&attachment(&volume, &other.id)).unwrap_err();
    assert!(
        refused.kind() == ErrorKind::Conflict && refused.to_string().contains(one.id.as_str()),
        "{refused}"
    );
    // The same device for a second volume is in use; left to the provider, another is taken.
    let second = make(&cloud, &spec(&cloud, owner("create"))).id;
    let same = AttachmentSpec { volume: second.clone(), ..wanted.clone() };
    assert_eq!(cloud.attachments().unwrap().attach(&same).unwrap_err().kind(), ErrorKind::Conflict);
    let free = cloud.attachments().unwrap().attach(&attachment(&second, &one.id)).unwrap();
    assert_eq!(free.device, Some(Device::Path("/dev/oracleoci/oraclevdc".into())));
    // Terminating the machine detaches.
    assert_eq!(attached(&cloud, &free.id), Progress::Ready);
    terminate(&cloud, &one.id);
    assert_eq!(detached(&cloud, &first.id), Progress::Ready);
    // And now to the other machine, in the same run and step.
    let moved = cloud
        .attachments()
        .unwrap()
        .attach(&AttachmentSpec { instance: other.id.clone(), ..wanted })
        .unwrap();
    assert_eq!(attached(&cloud, &moved.id), Progress::Ready);
    terminate(&cloud, &other.id);
    delete(&cloud, &volume);
    delete(&cloud, &second);
}

#[test]
fn an_iscsi_attachment_tells_its_portal_and_name() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let instance = launch(&bed, &cloud);
    let volume = make(&cloud, &spec(&cloud, owner("create"))).id;
    let wanted = AttachmentSpec { kind: AttachmentKind::Iscsi, ..attachment(&volume, &instance.id) };
    match cloud.attachments().unwrap().attach(&wanted) {
        Err(error) if error.is_passing() => println!("SKIPPED: no iSCSI here ({error})"),
        attachment => {
            let attachment = attachment.unwrap();
            assert_eq!(attached(&cloud, &attachment.id), Progress::Ready);
            let Some(Device::Iscsi { portal, iqn }) = attachment.device else { panic!("{attachment:?}") };
            assert!(
                portal.ip().is_loopback() && iqn.starts_with("iqn.2015-12.com.oracleiaas:"),
                "{portal} {iqn}"
            );
            std::net::TcpStream::connect(portal).unwrap();
            let otherwise = AttachmentSpec { kind: AttachmentKind::Paravirtualized, ..wanted };
            assert_eq!(
                cloud.attachments().unwrap().attach(&otherwise).unwrap_err().kind(),
                ErrorKind::Conflict
            );
        }
    }
    terminate(&cloud, &instance.id);
    delete(&cloud, &volume);
}

#[test]
fn attaching_too_early_or_across_domains_is_told() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let instance = launch(&bed, &cloud);
    bed.set(json!({"volume_provision": 6.0}));
    let early = cloud.volumes.create_volume(&spec(&cloud, owner("create"))).unwrap().id;
    let refused = cloud.attachments().unwrap().attach(&attachment(&early, &instance.id)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    bed.set(json!({"volume_provision": 0.1}));
    let elsewhere = cloud.volumes.domains().unwrap()[1].name.clone();
    let far = make(&cloud, &VolumeSpec { domain: elsewhere, ..spec(&cloud, owner("create")) }).id;
    let refused = cloud.attachments().unwrap().attach(&attachment(&far, &instance.id)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    assert_eq!(usable(&cloud, &early), Progress::Ready);
    bed.fault(json!({"operation": "Transition:attachment", "action": "fail"}));
    let fails = cloud.attachments().unwrap().attach(&attachment(&early, &instance.id)).unwrap();
    assert_eq!(attached(&cloud, &fails.id), Progress::Broken);
    terminate(&cloud, &instance.id);
    delete(&cloud, &early);
    delete(&cloud, &far);
}

#[test]
fn removing_bears_lost_answers_and_does_not_take_a_missing_right_for_success() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let volume = make(&cloud, &spec(&cloud, owner("create"))).id;
    bed.fault(json!({"operation": "DeleteVolume", "status": 404}));
    let refused = cloud.volumes.delete_volume(&volume).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
    bed.fault(json!({"operation": "DeleteVolume", "phase": "after", "action": "disconnect"}));
    cloud.volumes.delete_volume(&volume).unwrap();
    let instance = launch(&bed, &cloud);
    bed.fault(json!({"operation": "TerminateInstance", "phase": "after", "action": "disconnect"}));
    terminate(&cloud, &instance.id);
}
