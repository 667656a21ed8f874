"""Models for serving: the folder saved again (perhaps cut to a narrower width), with ONNX graphs beside on request.

folder.py   export(): load, cut, write aside, compare, rename
graph.py    the ONNX graphs, float32 and int8
parity.py   the texts and the floors by which a copy is judged
"""

from conan_embed.export.folder import export

__all__ = ["export"]
