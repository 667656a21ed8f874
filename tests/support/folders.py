"""Model folders, changed and refused."""

import json

import pytest

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError


def change_json(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(folder, *words, **settings):
    with pytest.raises(UserError) as error:
        EmbeddingModel.load(folder, **settings)
    for word in (str(folder.name), *words):
        assert word in str(error.value)
