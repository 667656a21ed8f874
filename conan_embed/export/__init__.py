"""Models for serving: the folder saved again (perhaps cut to a narrower width), or ONNX in float32 or int8.

folder.py   export(): load, cut, write aside, compare, rename
graph.py    the ONNX graph and its quantisation
parity.py   the texts and the floor by which a copy is judged
"""

from conan_embed.export.folder import export

__all__ = ["export"]
