# A private subnet that reaches the region's own services and nothing else.

locals {
  own_network = var.vcn_ocid == ""
  vcn         = local.own_network ? one(oci_core_vcn.this[*].id) : var.vcn_ocid
  subnet      = local.own_network ? one(oci_core_subnet.this[*].id) : var.subnet_ocid
  services    = data.oci_core_services.all.services[0]
}

data "oci_core_services" "all" {
  filter {
    name   = "name"
    values = ["All .* Services In Oracle Services Network"]
    regex  = true
  }
}

resource "oci_core_vcn" "this" {
  count          = local.own_network ? 1 : 0
  compartment_id = var.compartment_ocid
  display_name   = var.name
  cidr_blocks    = [var.vcn_cidr]
  dns_label      = replace(substr(var.name, 0, 15), "-", "")
}

resource "oci_core_service_gateway" "this" {
  count          = local.own_network ? 1 : 0
  compartment_id = var.compartment_ocid
  vcn_id         = local.vcn
  display_name   = var.name
  services {
    service_id = local.services.id
  }
}

resource "oci_core_route_table" "this" {
  count          = local.own_network ? 1 : 0
  compartment_id = var.compartment_ocid
  vcn_id         = local.vcn
  display_name   = var.name
  route_rules {
    destination       = local.services.cidr_block
    destination_type  = "SERVICE_CIDR_BLOCK"
    network_entity_id = oci_core_service_gateway.this[0].id
  }
}

# A list without rules: what may pass is said by the groups below, for each of the two separately.
resource "oci_core_security_list" "none" {
  count          = local.own_network ? 1 : 0
  compartment_id = var.compartment_ocid
  vcn_id         = local.vcn
  display_name   = "${var.name}-none"
}

resource "oci_core_subnet" "this" {
  count                      = local.own_network ? 1 : 0
  compartment_id             = var.compartment_ocid
  vcn_id                     = local.vcn
  cidr_block                 = var.vcn_cidr
  display_name               = var.name
  dns_label                  = "site"
  prohibit_public_ip_on_vnic = true
  route_table_id             = oci_core_route_table.this[0].id
  security_list_ids          = [oci_core_security_list.none[0].id]
}

resource "oci_core_network_security_group" "site" {
  compartment_id = var.compartment_ocid
  vcn_id         = local.vcn
  display_name   = "${var.name}-site"
}

resource "oci_core_network_security_group_security_rule" "site_to_services" {
  network_security_group_id = oci_core_network_security_group.site.id
  description               = "Object Storage, Block Volume, Identity"
  direction                 = "EGRESS"
  protocol                  = "6"
  destination               = local.services.cidr_block
  destination_type          = "SERVICE_CIDR_BLOCK"
  tcp_options {
    destination_port_range {
      min = 443
      max = 443
    }
  }
}

resource "oci_core_network_security_group_security_rule" "site_from_people" {
  for_each                  = toset(var.allow_from)
  network_security_group_id = oci_core_network_security_group.site.id
  description               = "Pages and API"
  direction                 = "INGRESS"
  protocol                  = "6"
  source                    = each.value
  source_type               = "CIDR_BLOCK"
  tcp_options {
    destination_port_range {
      min = 7443
      max = 7443
    }
  }
}

resource "oci_core_network_security_group" "function" {
  count          = local.has_function ? 1 : 0
  compartment_id = var.compartment_ocid
  vcn_id         = local.vcn
  display_name   = "${var.name}-function"
}

resource "oci_core_network_security_group_security_rule" "function_to_site" {
  count                     = local.has_function ? 1 : 0
  network_security_group_id = oci_core_network_security_group.function[0].id
  description               = "Events"
  direction                 = "EGRESS"
  protocol                  = "6"
  destination               = oci_core_network_security_group.site.id
  destination_type          = "NETWORK_SECURITY_GROUP"
  tcp_options {
    destination_port_range {
      min = 7443
      max = 7443
    }
  }
}

resource "oci_core_network_security_group_security_rule" "site_from_function" {
  count                     = local.has_function ? 1 : 0
  network_security_group_id = oci_core_network_security_group.site.id
  description               = "Events"
  direction                 = "INGRESS"
  protocol                  = "6"
  source                    = oci_core_network_security_group.function[0].id
  source_type               = "NETWORK_SECURITY_GROUP"
  tcp_options {
    destination_port_range {
      min = 7443
      max = 7443
    }
  }
}
