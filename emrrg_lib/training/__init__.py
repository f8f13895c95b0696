"""Training: the engine (transformers.Trainer), pre-training of the tiny weights, stage 3."""
