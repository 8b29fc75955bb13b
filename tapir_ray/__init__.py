"""Task-aware curriculum planning for instruction distillation, on Ray."""
