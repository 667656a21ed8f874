"""The public API: one file per step of the work, each a thin layer over the room that does it.

pairs.py        read_pairs, Pairs
model.py        load_model
negatives.py    mine_hard_negatives, MinedNegatives, find_false_negatives
training.py     train, Run
evaluation.py   evaluate
comparison.py   compare
filtering.py    filter_pairs
index.py        Index

Users import these names from `conan_embed` itself, which loads them lazily.
"""
