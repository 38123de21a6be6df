data "oci_objectstorage_namespace" "this" {
  compartment_id = var.tenancy_ocid
}

# Emptied by hand before it can be destroyed: images are somebody's.
resource "oci_objectstorage_bucket" "images" {
  compartment_id        = var.compartment_ocid
  namespace             = data.oci_objectstorage_namespace.this.namespace
  name                  = var.bucket_name
  access_type           = "NoPublicAccess"
  storage_tier          = "Standard"
  versioning            = "Disabled"
  object_events_enabled = local.has_function
}

resource "oci_objectstorage_object_lifecycle_policy" "images" {
  count     = var.delete_objects_after_days > 0 ? 1 : 0
  namespace = data.oci_objectstorage_namespace.this.namespace
  bucket    = oci_objectstorage_bucket.images.name
  rules {
    name        = "delete-imported"
    action      = "DELETE"
    is_enabled  = true
    target      = "objects"
    time_amount = var.delete_objects_after_days
    time_unit   = "DAYS"
  }
  depends_on = [oci_identity_policy.lifecycle]
}
