"""EDM's two networks, from the noised image and what it is told to what the preconditioning makes a denoiser of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apps.imagegen.models.edm.backbone import decode, decoder, encode, encoder
from apps.imagegen.models.edm.blocks import BlockStyle
from apps.imagegen.models.edm.config import DhariwalConfig, SongConfig, UNetConfig
from apps.imagegen.models.edm.layers import (
    Convolution,
    FourierEmbedding,
    GroupNorm,
    Initialisation,
    PositionalEmbedding,
    drawn,
)


class SongUNet(nn.Module):
    """DDPM++ and NCSN++ (Song et al. 2021, arXiv 2011.13456) with EDM's changes (Karras et al. 2022, appendix F.1)."""

    def __init__(self, config: SongConfig) -> None:
        super().__init__()
        self.config = config
        told, width = config.model_channels * config.channel_mult_noise, config.model_channels * config.channel_mult_emb
        initialise = Initialisation(xavier=True, residual=1e-5, attention=math.sqrt(0.2))
        style = BlockStyle(
            embedding=width,
            dropout=config.dropout,
            eps=1e-6,
            skip_scale=math.sqrt(0.5),
            adaptive_scale=False,
            channels_per_head=None,
            resample_convolves=True,
            taps=config.resample_filter,
            initialise=initialise,
        )
        if config.embedding_type == "fourier":
            self.map_noise = FourierEmbedding(told)
        else:
            self.map_noise = PositionalEmbedding(told, endpoint=True, sine_first=True)
        self.map_label = nn.Linear(config.label_dim, told) if config.label_dim else None
        self.map_augment = nn.Linear(config.augment_dim, told, bias=False) if config.augment_dim else None
        self.map_layer0 = nn.Linear(told, width)
        self.map_layer1 = nn.Linear(width, width)
        for layer in (self.map_label, self.map_augment, self.map_layer0, self.map_layer1):
            if layer is not None:
                initialise(layer)
        self.enc, left = encoder(config, style, config.encoder_type)
        self.dec = decoder(config, style, left, kind=config.decoder_type, attend_last=True)

    def forward(
        self, x: Tensor, level: Tensor, class_labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """The raw prediction (B, out_channels, H, W), in the type of x.

        Args:
            x: (B, in_channels, H, W).
            level: (B,) or (1,) what the preconditioning tells of the noise.
            class_labels: (B or 1, label_dim) one-hot, or zeros.
            augment_labels: (B or 1, augment_dim); None is not augmented.
        """
        told = self.map_noise(level)
        if self.map_label is not None and class_labels is not None:
            labels = dropped_labels(class_labels, self.config, self.training)
            told = told + self.map_label(labels * math.sqrt(self.config.label_dim))
        if self.map_augment is not None and augment_labels is not None:
            told = told + self.map_augment(augment_labels)
        embedding = F.silu(self.map_layer1(F.silu(self.map_layer0(told))))
        _, output = decode(self.dec, encode(self.enc, x, embedding), embedding)
        assert output is not None
        return output


class DhariwalUNet(nn.Module):
    """ADM (Dhariwal & Nichol 2021, arXiv 2105.05233) as EDM has it (Karras et al. 2022, appendix F.3)."""

    def __init__(self, config: DhariwalConfig) -> None:
        super().__init__()
        self.config = config
        told, width = config.model_channels, config.model_channels * config.channel_mult_emb
        initialise = Initialisation(xavier=False, residual=0.0)
        style = BlockStyle(
            embedding=width,
            dropout=config.dropout,
            eps=1e-5,
            skip_scale=1.0,
            adaptive_scale=True,
            channels_per_head=64,
            resample_convolves=False,
            taps=(1, 1),
            initialise=initialise,
        )
        self.map_noise = PositionalEmbedding(told, endpoint=False, sine_first=False)
        self.map_augment = nn.Linear(config.augment_dim, told, bias=False) if config.augment_dim else None
        self.map_layer0 = nn.Linear(told, width)
        self.map_layer1 = nn.Linear(width, width)
        self.map_label = nn.Linear(config.label_dim, width, bias=False) if config.label_dim else None
        if self.map_augment is not None:
            initialise(self.map_augment, initialise.residual)
        if self.map_label is not None:
            drawn(self.map_label.weight)
        self.enc, left = encoder(config, style)
        self.dec = decoder(config, style, left, kind=None, attend_last=False)
        channels = config.levels[0][1]
        self.out_norm = GroupNorm(channels, style.eps)
        self.out_conv = Convolution(channels, config.out_channels, 3)
        initialise(self.out_conv, initialise.residual)

    def forward(
        self, x: Tensor, level: Tensor, class_labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """See `SongUNet.forward`."""
        told = self.map_noise(level)
        if self.map_augment is not None and augment_labels is not None:
            told = told + self.map_augment(augment_labels)
        embedding = self.map_layer1(F.silu(self.map_layer0(told)))
        if self.map_label is not None and class_labels is not None:
            embedding = embedding + self.map_label(dropped_labels(class_labels, self.config, self.training))
        embedding = F.silu(embedding)
        features, _ = decode(self.dec, encode(self.enc, x, embedding), embedding)
        return self.out_conv(F.silu(self.out_norm(features)))


def dropped_labels(labels: Tensor, config: UNetConfig, training: bool) -> Tensor:
    """In training, labels (B, label_dim) with some rows set to zero, which is "any class"."""
    if not training or not config.label_dropout:
        return labels
    return labels * (torch.rand(len(labels), 1, device=labels.device) >= config.label_dropout)


def build_network(config: UNetConfig) -> SongUNet | DhariwalUNet:
    """The network of a configuration, with fresh weights."""
    if isinstance(config, SongConfig):
        return SongUNet(config)
    assert isinstance(config, DhariwalConfig)
    return DhariwalUNet(config)
