"""Trainings of image models."""
