# One VM with a GPU on each of two hosts, and what people put beside it.

terraform {
  required_providers {
    vsphere = { source = "hashicorp/vsphere" }
  }
}

variable "cpus" {
  default = 4
}

provider "vsphere" {
  allow_unverified_ssl = true
}

data "vsphere_datacenter" "lab" {
  name = "Lab"
}

data "vsphere_compute_cluster" "gpus" {
  name          = "GPU-Cluster"
  datacenter_id = data.vsphere_datacenter.lab.id
}

data "vsphere_host" "esx" {
  count         = 2
  name          = "esx-0${count.index + 1}.lab.local"
  datacenter_id = data.vsphere_datacenter.lab.id
}

data "vsphere_datastore" "vsan" {
  name          = "vsanDatastore"
  datacenter_id = data.vsphere_datacenter.lab.id
}

data "vsphere_network" "network" {
  name          = "VM Network"
  datacenter_id = data.vsphere_datacenter.lab.id
}

data "vsphere_storage_policy" "default" {
  name = "vSAN Default Storage Policy"
}

data "vsphere_virtual_machine" "template" {
  name          = "centos7-tensorflow"
  datacenter_id = data.vsphere_datacenter.lab.id
}

data "vsphere_host_pci_device" "gpu" {
  count     = 2
  host_id   = data.vsphere_host.esx[count.index].id
  vendor_id = "10de"
}

resource "vsphere_resource_pool" "learning" {
  name                    = "learning"
  parent_resource_pool_id = data.vsphere_compute_cluster.gpus.resource_pool_id
}

resource "vsphere_folder" "learning" {
  path          = "learning"
  type          = "vm"
  datacenter_id = data.vsphere_datacenter.lab.id
}

resource "vsphere_tag_category" "team" {
  name             = "team"
  cardinality      = "SINGLE"
  associable_types = ["VirtualMachine"]

  lifecycle {
    ignore_changes = [associable_types] # govmomi's simulator answers with urn:vim25:VirtualMachine
  }
}

resource "vsphere_tag" "learning" {
  name        = "learning"
  category_id = vsphere_tag_category.team.id
}

resource "vsphere_content_library" "images" {
  name            = "images"
  storage_backing = [data.vsphere_datastore.vsan.id]
}

resource "vsphere_virtual_machine" "trainer" {
  count              = 2
  annotation         = "A trainer."
  name               = "trainer-${count.index + 1}"
  resource_pool_id   = vsphere_resource_pool.learning.id
  folder             = vsphere_folder.learning.path
  tags               = [vsphere_tag.learning.id]
  host_system_id     = data.vsphere_host.esx[count.index].id
  datastore_id       = data.vsphere_datastore.vsan.id
  storage_policy_id  = data.vsphere_storage_policy.default.id
  num_cpus           = var.cpus
  memory             = 8192
  memory_reservation = 8192
  firmware           = "efi"
  guest_id           = data.vsphere_virtual_machine.template.guest_id
  scsi_type          = data.vsphere_virtual_machine.template.scsi_type
  pci_device_id      = [data.vsphere_host_pci_device.gpu[count.index].id]
  extra_config = {
    "pciPassthru.use64bitMMIO"    = "TRUE"
    "pciPassthru.64bitMMIOSizeGB" = "64"
  }
  wait_for_guest_net_timeout = 0

  network_interface {
    network_id   = data.vsphere_network.network.id
    adapter_type = data.vsphere_virtual_machine.template.network_interface_types[0]
  }

  disk {
    label            = "disk0"
    size             = data.vsphere_virtual_machine.template.disks[0].size
    thin_provisioned = data.vsphere_virtual_machine.template.disks[0].thin_provisioned
    eagerly_scrub    = data.vsphere_virtual_machine.template.disks[0].eagerly_scrub
  }

  clone {
    template_uuid = data.vsphere_virtual_machine.template.id
  }
}
