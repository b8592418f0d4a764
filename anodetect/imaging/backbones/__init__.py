"""Pretrained networks whose features a detector can model."""
