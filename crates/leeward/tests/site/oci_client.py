"""What a user of OCI does beside Leeward, by Oracle's own SDK: python oci_client.py STATE ENDPOINT COMMAND ARGUMENTS.

Prints JSON. The compartment is the test bed's `recovery`.
"""

import json
import sys
import time

import oci

STATE, ENDPOINT, COMMAND, *ARGUMENTS = sys.argv[1:]
CONFIG = oci.config.from_file(STATE + "/config")
SITE = json.load(open(STATE + "/site.json"))
COMPARTMENT = SITE["compartments"][1][0]


def client(kind):
    return kind(CONFIG, service_endpoint=ENDPOINT)


def bucket(name):
    details = oci.object_storage.models.CreateBucketDetails(
        name=name, compartment_id=COMPARTMENT, object_events_enabled=True
    )
    client(oci.object_storage.ObjectStorageClient).create_bucket(SITE["namespace"], details)
    return {"namespace": SITE["namespace"]}


def put(name, key, path, metadata):
    storage = client(oci.object_storage.ObjectStorageClient)
    with open(path, "rb") as content:
        storage.put_object(SITE["namespace"], name, key, content, opc_meta=json.loads(metadata))
    return {}


def instance(domain):
    compute = client(oci.core.ComputeClient)
    models = oci.core.models
    details = models.LaunchInstanceDetails(
        availability_domain=SITE["availability_domains"][int(domain) - 1],
        compartment_id=COMPARTMENT,
        shape="VM.Standard.E4.Flex",
        shape_config=models.LaunchInstanceShapeConfigDetails(ocpus=1, memory_in_gbs=8),
        display_name="the-daemon",
        create_vnic_details=models.CreateVnicDetails(subnet_id=SITE["subnet"], assign_public_ip=False),
        source_details=models.InstanceSourceViaImageDetails(image_id=SITE["images"][0][0]),
    )
    found = compute.launch_instance(details).data
    while found.lifecycle_state != "RUNNING":
        time.sleep(0.2)
        found = compute.get_instance(found.id).data
    return {"id": found.id, "domain": found.availability_domain}


def volumes(run):
    storage = client(oci.core.BlockstorageClient)
    compute = client(oci.core.ComputeClient)
    listed = oci.pagination.list_call_get_all_results(storage.list_volumes, compartment_id=COMPARTMENT).data
    result = []
    for volume in listed:
        if volume.freeform_tags.get("leeward-run") != run or volume.lifecycle_state == "TERMINATED":
            continue
        attached = compute.list_volume_attachments(COMPARTMENT, volume_id=volume.id).data
        policy = storage.get_volume_backup_policy_asset_assignment(volume.id).data
        result.append(
            {
                "id": volume.id,
                "name": volume.display_name,
                "gib": volume.size_in_gbs,
                "domain": volume.availability_domain,
                "state": volume.lifecycle_state,
                "vpus": volume.vpus_per_gb,
                "tags": volume.freeform_tags,
                "attached": [one.id for one in attached if one.lifecycle_state != "DETACHED"],
                "policies": [one.policy_id for one in policy],
                "file": f"{STATE}/volumes/{volume.id}.img",
            }
        )
    return result


def leak(run, domain):
    """A volume of a run, made when the run has ended: as when its creation was asked for before and took its time."""
    storage = client(oci.core.BlockstorageClient)
    details = oci.core.models.CreateVolumeDetails(
        availability_domain=SITE["availability_domains"][int(domain) - 1],
        compartment_id=COMPARTMENT,
        display_name="late",
        size_in_gbs=50,
        freeform_tags={"leeward-run": run, "leeward-step": "create_block_volume"},
    )
    found = storage.create_volume(details).data
    while found.lifecycle_state != "AVAILABLE":
        time.sleep(0.2)
        found = storage.get_volume(found.id).data
    return {"id": found.id}


def instances(run):
    compute = client(oci.core.ComputeClient)
    listed = oci.pagination.list_call_get_all_results(compute.list_instances, COMPARTMENT).data
    return [
        {
            "id": one.id,
            "name": one.display_name,
            "domain": one.availability_domain,
            "state": one.lifecycle_state,
            "shape": one.shape,
            "tags": one.freeform_tags,
            "user_data": (one.metadata or {}).get("user_data"),
        }
        for one in listed
        if one.freeform_tags.get("leeward-run") == run
    ]


COMMANDS = {
    "bucket": bucket,
    "put": put,
    "instance": instance,
    "instances": instances,
    "volumes": volumes,
    "leak": leak,
}
print(json.dumps(COMMANDS[COMMAND](*ARGUMENTS)))
