"""A model as one Python file that needs torch alone and reads like the paper."""
