output "address" {
  value       = "https://${oci_core_instance.site.private_ip}:7443"
  description = "Where the daemon is reached, from the networks in allow_from."
}

output "source" {
  value       = "oci://${var.bucket_name}@${data.oci_objectstorage_namespace.this.namespace}?region=${var.region}"
  description = "The bucket as the site's source."
}

output "reader" {
  value = var.reader_public_key == "" ? null : {
    user        = oci_identity_user.reader[0].id
    fingerprint = oci_identity_api_key.reader[0].fingerprint
    tenancy     = var.tenancy_ocid
    region      = var.region
  }
  description = "For /etc/leeward/oci/config on the machine, with the private key beside it."
}
