"""Latent models: diffusers' pipelines as frozen models. See `apps.imagegen.models.diffusers`."""
