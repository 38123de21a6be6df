# What the daemon may do, by what it is: no key lies on the machine for this.

resource "oci_identity_dynamic_group" "site" {
  compartment_id = var.tenancy_ocid
  name           = "${var.name}-site"
  description    = "The machine of Leeward's daemon"
  matching_rule  = "ALL {instance.id = '${oci_core_instance.site.id}'}"
}

locals {
  group = "dynamic-group ${oci_identity_dynamic_group.site.name}"
  where = "in compartment id ${var.compartment_ocid}"
  volumes = [
    "Allow ${local.group} to manage volumes ${local.where}",
    "Allow ${local.group} to manage volume-attachments ${local.where}",
    "Allow ${local.group} to manage backup-policy-assignments ${local.where}",
    # Attaching is a change of the machine, of this one alone.
    "Allow ${local.group} to use instances ${local.where} where target.instance.id = '${oci_core_instance.site.id}'",
    "Allow ${local.group} to read instances ${local.where}",
  ]
  workers = var.workers ? [
    "Allow ${local.group} to manage instances ${local.where}",
    "Allow ${local.group} to read instance-images ${local.where}",
    "Allow ${local.group} to use subnets ${local.where}",
    "Allow ${local.group} to use vnics ${local.where}",
    "Allow ${local.group} to use network-security-groups ${local.where}",
  ] : []
  keys = var.kms_key_ocid == "" ? [] : [
    "Allow ${local.group} to use keys in tenancy where target.key.id = '${var.kms_key_ocid}'",
    "Allow service blockstorage to use keys in tenancy where target.key.id = '${var.kms_key_ocid}'",
  ]
}

resource "oci_identity_policy" "site" {
  compartment_id = var.compartment_ocid
  name           = "${var.name}-site"
  description    = "Leeward: volumes of its compartment"
  statements     = concat(local.volumes, local.workers)
}

# Backup policies and keys are the tenancy's.
resource "oci_identity_policy" "tenancy" {
  compartment_id = var.tenancy_ocid
  name           = "${var.name}-tenancy"
  description    = "Leeward: names of backup policies, and its key"
  statements     = concat(["Allow ${local.group} to inspect backup-policies in tenancy"], local.keys)
}

# Object Storage is read with a key of Oracle's own tools (docs/stores-swift-oci.md), by a user who can do nothing else.
resource "oci_identity_user" "reader" {
  count          = var.reader_public_key == "" ? 0 : 1
  compartment_id = var.tenancy_ocid
  name           = "${var.name}-reader"
  description    = "Reads ${var.bucket_name} for Leeward"
  email          = var.reader_email == "" ? null : var.reader_email
}

resource "oci_identity_user_capabilities_management" "reader" {
  count                        = var.reader_public_key == "" ? 0 : 1
  user_id                      = oci_identity_user.reader[0].id
  can_use_api_keys             = true
  can_use_auth_tokens          = false
  can_use_console_password     = false
  can_use_customer_secret_keys = false
  can_use_smtp_credentials     = false
}

resource "oci_identity_api_key" "reader" {
  count     = var.reader_public_key == "" ? 0 : 1
  user_id   = oci_identity_user.reader[0].id
  key_value = var.reader_public_key
}

resource "oci_identity_group" "reader" {
  count          = var.reader_public_key == "" ? 0 : 1
  compartment_id = var.tenancy_ocid
  name           = "${var.name}-reader"
  description    = "Reads ${var.bucket_name} for Leeward"
}

resource "oci_identity_user_group_membership" "reader" {
  count    = var.reader_public_key == "" ? 0 : 1
  group_id = oci_identity_group.reader[0].id
  user_id  = oci_identity_user.reader[0].id
}

resource "oci_identity_policy" "reader" {
  count          = var.reader_public_key == "" ? 0 : 1
  compartment_id = var.compartment_ocid
  name           = "${var.name}-reader"
  description    = "Leeward: reads its bucket"
  statements = [
    "Allow group ${oci_identity_group.reader[0].name} to read buckets ${local.where} where target.bucket.name = '${var.bucket_name}'",
    "Allow group ${oci_identity_group.reader[0].name} to read objects ${local.where} where target.bucket.name = '${var.bucket_name}'",
  ]
}

# Old images are deleted by the service itself.
resource "oci_identity_policy" "lifecycle" {
  count          = var.delete_objects_after_days > 0 ? 1 : 0
  compartment_id = var.compartment_ocid
  name           = "${var.name}-lifecycle"
  description    = "Object Storage deletes imported images"
  statements = [
    "Allow service objectstorage-${var.region} to manage object-family ${local.where} where any {request.permission = 'BUCKET_INSPECT', request.permission = 'BUCKET_READ', request.permission = 'OBJECT_INSPECT', request.permission = 'OBJECT_DELETE'}",
  ]
}
