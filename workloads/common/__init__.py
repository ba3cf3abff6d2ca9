"""The parts that all shipped workloads use: options, start, log, checkpoints, training loop."""
