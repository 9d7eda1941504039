"""CLIP once more, in plain numpy and float64, from the paper and its weights' names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def _normalised(x: Array, weights: Weights, name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _linear(x: Array, weights: Weights, name: str) -> Array:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", np.zeros(()))


def _attention(x: Array, weights: Weights, name: str, heads: int, causal: bool) -> Array:
    q, k, v = (np.split(_linear(x, weights, f"{name}.{part}_proj"), heads, axis=-1) for part in "qkv")
    found = []
    for query, key, value in zip(q, k, v, strict=True):
        scores = query @ key.T / np.sqrt(key.shape[-1])
        if causal:
            scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        exponents = np.exp(scores - scores.max(-1, keepdims=True))
        found.append(exponents / exponents.sum(-1, keepdims=True) @ value)
    return _linear(np.concatenate(found, -1), weights, f"{name}.out_proj")


def _encoder(x: Array, weights: Weights, name: str, layers: int, heads: int, causal: bool) -> Array:
    for index in range(layers):
        layer = f"{name}.encoder.layers.{index}"
        x = x + _attention(
            _normalised(x, weights, f"{layer}.layer_norm1"), weights, f"{layer}.self_attn", heads, causal
        )
        hidden = _linear(_normalised(x, weights, f"{layer}.layer_norm2"), weights, f"{layer}.mlp.fc1")
        x = x + _linear(hidden / (1 + np.exp(-1.702 * hidden)), weights, f"{layer}.mlp.fc2")
    return x


def embed_image(pixels: Array, weights: Weights, patch: int, layers: int, heads: int) -> Array:
    """(3, H, W), normalised, to CLIP's space."""
    name, kernel = "vision_model", weights["vision_model.embeddings.patch_embedding.weight"]
    rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
    patches = pixels.reshape(3, rows, patch, columns, patch).transpose(1, 3, 0, 2, 4).reshape(rows * columns, -1)
    tokens = patches @ kernel.reshape(len(kernel), -1).T
    x = np.concatenate([weights[f"{name}.embeddings.class_embedding"][None], tokens])
    x = _normalised(x + weights[f"{name}.embeddings.position_embedding.weight"], weights, f"{name}.pre_layrnorm")
    x = _encoder(x, weights, name, layers, heads, causal=False)
    return _linear(_normalised(x[0], weights, f"{name}.post_layernorm"), weights, "visual_projection")


def embed_text(tokens: list[int], weights: Weights, layers: int, heads: int) -> Array:
    """Tokens up to and with the end of the text, to CLIP's space."""
    name = "text_model"
    x = weights[f"{name}.embeddings.token_embedding.weight"][tokens]
    x = x + weights[f"{name}.embeddings.position_embedding.weight"][: len(tokens)]
    x = _encoder(x, weights, name, layers, heads, causal=True)
    return _linear(_normalised(x[-1], weights, f"{name}.final_layer_norm"), weights, "text_projection")
