resource "oci_core_instance" "site" {
  compartment_id      = var.compartment_ocid
  availability_domain = var.availability_domain
  display_name        = var.name
  shape               = var.shape
  shape_config {
    ocpus         = var.ocpus
    memory_in_gbs = var.memory_in_gbs
  }
  source_details {
    source_type = "image"
    source_id   = var.image_ocid
  }
  create_vnic_details {
    subnet_id        = local.subnet
    assign_public_ip = "false"
    nsg_ids          = [oci_core_network_security_group.site.id]
  }
  instance_options {
    are_legacy_imds_endpoints_disabled = true
  }
  is_pv_encryption_in_transit_enabled = true
  preserve_boot_volume                = true
  metadata = merge(
    { user_data = base64encode(local.cloud_init) },
    var.ssh_public_key == "" ? {} : { ssh_authorized_keys = var.ssh_public_key },
  )
  lifecycle {
    # The daemon's state is on it: a newer image or other cloud-init is no reason to make it anew.
    ignore_changes = [metadata, source_details]
  }
}

locals {
  site = templatefile("${path.module}/site.toml.tftpl", {
    name        = var.name
    bucket      = var.bucket_name
    namespace   = data.oci_objectstorage_namespace.this.namespace
    region      = var.region
    watch       = local.has_function ? "both" : "poll"
    events      = local.has_function
    compartment = var.compartment_ocid
    kms_key     = var.kms_key_ocid
    allow_from  = var.allow_from
  })
  cloud_init = templatefile("${path.module}/cloud-init.tftpl", {
    site           = base64encode(local.site)
    event_secret   = base64encode(var.event_secret)
    package_url    = var.package_url
    package_sha256 = var.package_sha256
  })
}
