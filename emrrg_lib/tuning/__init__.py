"""Parameter-efficient tuning: Partial LoRA, what trains, the parameter ledger."""
