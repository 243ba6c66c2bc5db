"""What serves the training of networks: optimisers, checkpoints, loggers, losses, lists of numbers from text."""
