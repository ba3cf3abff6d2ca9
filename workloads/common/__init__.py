"""What the shipped workloads share: options, start, log, checkpoints, the training loop."""
