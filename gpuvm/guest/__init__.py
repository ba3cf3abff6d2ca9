"""The only importer of paramiko: a machine with a TensorFlow in it, reached over SSH."""
