"""What serves the training of networks: optimisers' steps looked at in advance."""
