variable "tenancy_ocid" {
  type        = string
  description = "The tenancy: dynamic groups are made there."
}

variable "region" {
  type        = string
  description = "As in eu-frankfurt-1."
}

variable "compartment_ocid" {
  type        = string
  description = "A compartment for imports alone: the daemon may list, change and delete the volumes in it."
}

variable "name" {
  type        = string
  default     = "leeward"
  description = "What everything is called."
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}$", var.name))
    error_message = "Lower-case letters, digits and dashes."
  }
}

# Bucket.

variable "bucket_name" {
  type        = string
  default     = "block-volume-import-bucket"
  description = "Where images are put. The name is that of Oracle's published solution."
}

variable "delete_objects_after_days" {
  type        = number
  default     = 0
  description = "Delete uploaded images after so many days; 0 keeps them. Give a failed import time to be mended."
}

# Machine.

variable "availability_domain" {
  type        = string
  description = "Where the daemon's machine is, and so the volumes that it writes: a volume is attached in its own domain only."
}

variable "image_ocid" {
  type        = string
  description = "An image of Ubuntu 22.04 or newer, or another in which Debian packages can be installed."
}

variable "package_url" {
  type        = string
  sensitive   = true
  description = "Where the machine gets leeward's Debian package: a pre-authenticated request of Object Storage, as the machine reaches nothing else."
}

variable "package_sha256" {
  type        = string
  description = "The package's digest: another one is not installed."
  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.package_sha256))
    error_message = "64 hexadecimal digits."
  }
}

variable "shape" {
  type    = string
  default = "VM.Standard.E5.Flex"
}

variable "ocpus" {
  type    = number
  default = 2
}

variable "memory_in_gbs" {
  type    = number
  default = 8
}

variable "ssh_public_key" {
  type        = string
  default     = ""
  description = "Who may log in to the machine; nobody where empty."
}

# Network.

variable "vcn_ocid" {
  type        = string
  default     = ""
  description = "An existing network; one is made where empty."
}

variable "subnet_ocid" {
  type        = string
  default     = ""
  description = "A private subnet of the existing network, with a route to the region's services by a service gateway."
}

variable "vcn_cidr" {
  type    = string
  default = "10.74.0.0/24"
}

variable "allow_from" {
  type        = list(string)
  default     = []
  description = "Networks from which people and programs may ask the daemon (port 7443), as 10.0.0.0/8."
  validation {
    condition     = !contains(var.allow_from, "0.0.0.0/0")
    error_message = "Not from everywhere."
  }
}

# Telling of new objects.

variable "function_image" {
  type        = string
  default     = ""
  description = "An image in the region's registry of function/ beside this file; where empty, the daemon looks into the bucket every minute."
}

variable "event_secret" {
  type        = string
  default     = ""
  sensitive   = true
  description = "What the function shows to the daemon; it lets tell of objects of this bucket, and nothing else."
}

variable "site_ca" {
  type        = string
  default     = ""
  description = "PEM of the authority of the daemon's certificate, for the function: /var/lib/leeward/tls/ca-cert.pem after the first start."
}

# Rights.

variable "workers" {
  type        = bool
  default     = false
  description = "Whether the daemon may launch machines that write volumes."
}

variable "kms_key_ocid" {
  type        = string
  default     = ""
  description = "A key of Vault that encrypts new volumes; Oracle's own where empty."
}

variable "reader_public_key" {
  type        = string
  default     = ""
  description = "PEM of an API key for the user that reads the bucket for the daemon; no user is made where empty. The private key stays with you."
}

variable "reader_email" {
  type        = string
  default     = ""
  description = "Identity domains want an address for each user."
}
