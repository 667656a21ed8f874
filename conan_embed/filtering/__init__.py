"""From raw text pairs to clean ones (paper, section 2.1): every pair is kept, or dropped for a reason that is
written down.

The stages, in the paper's order, each in the file of its name: normalise, language, (heuristic) rules, prompt_response,
duplicates, safety, quality, decontamination, teacher. A stage is an object with a name, called with a batch of pairs
(`stage.Stage`). `steps.py` applies them to one shard, `engine.py` runs a step over all shards (Daft), and
`pipeline.filter_pairs` is the whole run. `docs/filtering.md` tells how to use and extend it.
"""
