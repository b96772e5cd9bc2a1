"""Code that runs on the GPU: Triton functions only. Imported by the launching code beside it, never earlier.

Shapes: B pictures, H x W places, C channels, M = B * H * W, K the kernel's side. Two memory layouts: "tokens"
(B, H, W, C) and "channels" (C, B, H, W). Every sum over places is written as one partial result per program
and added in a fixed order afterwards: no atomics, so the same launch gives the same bits.
"""
