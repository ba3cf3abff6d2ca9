"""The only importer of pyVmomi: everything below hands out frozen values from gpuvm.inventory."""
