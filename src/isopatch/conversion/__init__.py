"""Checkpoints from one project's format to another's, with the error measured."""
