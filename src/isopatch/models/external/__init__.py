"""Classification models of timm and torchvision by name: baselines to compare with, and teachers."""
