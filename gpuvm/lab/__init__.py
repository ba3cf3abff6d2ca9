"""The simulated data centre: a vCenter with GPU hosts and real SSH guests on this machine."""
