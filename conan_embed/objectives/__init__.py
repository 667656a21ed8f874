"""The losses, as functions of tensors that any trainer can use.

from conan_embed.objectives import infonce, cosent, Relations

relations = Relations.one_positive(8, negatives_per_query=7)
loss = infonce(query_QD, candidate_CD, relations, temperature=0.02).loss
"""

from conan_embed.objectives.cosent import cosent, cosent_of_pairs
from conan_embed.objectives.distillation import embedding_distance, kl_divergence, margin_mse
from conan_embed.objectives.infonce import InfoNCE, infonce
from conan_embed.objectives.relations import IGNORED, NEGATIVE, POSITIVE, Relations
from conan_embed.objectives.spread import spread_out

__all__ = [
    "IGNORED",
    "NEGATIVE",
    "POSITIVE",
    "InfoNCE",
    "Relations",
    "cosent",
    "cosent_of_pairs",
    "embedding_distance",
    "infonce",
    "kl_divergence",
    "margin_mse",
    "spread_out",
]
