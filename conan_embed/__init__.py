"""conan-embed: general text-embedding models whose negatives stay hard (arXiv 2408.15710)."""

__version__ = "0.1.0"
