# New objects are told to the daemon by a function in its own subnet: the daemon has no public address.

locals {
  has_function = var.function_image != ""
}

resource "oci_functions_application" "this" {
  count                      = local.has_function ? 1 : 0
  compartment_id             = var.compartment_ocid
  display_name               = var.name
  subnet_ids                 = [local.subnet]
  network_security_group_ids = [oci_core_network_security_group.function[0].id]
}

resource "oci_functions_function" "hear" {
  count              = local.has_function ? 1 : 0
  application_id     = oci_functions_application.this[0].id
  display_name       = "${var.name}-hear"
  image              = var.function_image
  memory_in_mbs      = "128"
  timeout_in_seconds = 30
  config = {
    LEEWARD_HEAR   = "https://${oci_core_instance.site.private_ip}:7443/v1/hear/uploads"
    LEEWARD_SECRET = urlencode(var.event_secret)
    LEEWARD_CA     = base64encode(var.site_ca)
  }
  lifecycle {
    precondition {
      condition     = var.event_secret != "" && var.site_ca != ""
      error_message = "A function needs event_secret and site_ca."
    }
  }
}

resource "oci_events_rule" "uploads" {
  count          = local.has_function ? 1 : 0
  compartment_id = var.compartment_ocid
  display_name   = "${var.name}-uploads"
  description    = "Tells Leeward of new objects in ${var.bucket_name}"
  is_enabled     = true
  condition = jsonencode({
    eventType = ["com.oraclecloud.objectstorage.createobject", "com.oraclecloud.objectstorage.updateobject"]
    data      = { additionalDetails = { bucketName = [var.bucket_name] } }
  })
  actions {
    actions {
      action_type = "FAAS"
      is_enabled  = true
      function_id = oci_functions_function.hear[0].id
    }
  }
  depends_on = [oci_objectstorage_bucket.images]
}
