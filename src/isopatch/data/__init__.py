"""Labelled pictures: sources, splits, sampling, augmentation, loading. Knows no model."""
