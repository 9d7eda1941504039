"""Doors to other people's houses: pysteps' arrays and methods, MLCast's network contract.

from apps.nowcast.adapters.pysteps import from_pysteps, register, to_pysteps
from apps.nowcast.adapters.mlcast import MLCastNetwork
python -m apps.nowcast.adapters.blend_example --out blended.png
"""
