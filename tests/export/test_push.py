"""Pushing a model: nothing leaves without being asked for, and what would leave is told."""

import json
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import LocalTokenNotFoundError
from typer.testing import CliRunner

from conan_embed.cli import app
from conan_embed.errors import UserError
from conan_embed.export import push as push_module
from conan_embed.export.push import plan_push, push
from tests.tiny_models import make_tiny_model


class Hub:
    """Notes what it is asked to do."""

    def __init__(self):
        self.created, self.uploaded = [], []

    def create_repo(self, repository, **settings):
        self.created.append((repository, settings))

    def upload_folder(self, **settings):
        self.uploaded.append(settings)
        return SimpleNamespace(commit_url=f"https://hub/{settings['repo_id']}/commit/1")


@pytest.fixture
def model(tmp_path):
    make_tiny_model("bert", dense_width=8).save(tmp_path / "model")
    for name in ("pytorch_model.bin", ".secret", "half.tmp"):
        (tmp_path / "model" / name).write_text("x")
    return tmp_path / "model"


def license_it(model):
    card = model / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace("license: unknown", "license: apache-2.0", 1))


def test_the_plan_names_files_sizes_and_what_the_card_lacks(model):
    plan = plan_push(model, "me/model")
    assert {
        "model.safetensors",
        "modules.json",
        "2_Dense/model.safetensors",
        "README.md",
    } <= plan.files.keys()
    assert not plan.files.keys() & {"pytorch_model.bin", ".secret", "half.tmp"}
    assert plan.files["modules.json"] == (model / "modules.json").stat().st_size
    assert plan.lacks == ("`license` at its top", "`language` at its top", "what it calls *unknown*")
    assert "me/model (private if new)" in str(plan) and "model.safetensors" in str(plan)


def test_a_push_uploads_the_plan_and_needs_a_license(model):
    hub = Hub()
    with pytest.raises(UserError, match="names no license; expected `license:` at its top"):
        push(model, "me/model", api=hub)
    assert hub.created == hub.uploaded == []
    license_it(model)
    assert push(model, "me/model", private=False, api=hub) == "https://hub/me/model/commit/1"
    assert hub.created == [("me/model", {"private": False, "exist_ok": True})]
    (uploaded,) = hub.uploaded
    assert uploaded["allow_patterns"] == list(plan_push(model, "me/model").files)
    assert uploaded["folder_path"] == model


def test_the_command_uploads_nothing_unless_asked(model, monkeypatch):
    license_it(model)
    hub = Hub()
    monkeypatch.setattr(push_module, "HfApi", lambda: hub)
    dry = CliRunner().invoke(app, ["push", str(model), "me/model"])
    assert dry.exit_code == 0 and "Nothing was uploaded" in dry.output and hub.uploaded == []
    wet = CliRunner().invoke(app, ["push", str(model), "me/model", "--yes"])
    assert wet.exit_code == 0 and "https://hub/me/model" in wet.output and len(hub.uploaded) == 1


@pytest.mark.parametrize(
    ("base", "is_refused"),
    [
        ("{folder}", True),
        ("/elsewhere/base", True),
        ("./base", True),
        ("~/base", True),
        ("models/of/ours", True),
        ("Qwen/Qwen3-Embedding-0.6B", False),
        ("bert-base-chinese", False),
    ],
)
def test_an_adapter_goes_to_the_hub_only_with_a_base_that_others_have(model, base, is_refused, tmp_path):
    """The folder holds the name of its base alone, which is all that a client has."""
    config = {"peft_type": "LORA", "base_model_name_or_path": base.format(folder=tmp_path)}
    (model / "adapter_config.json").write_text(json.dumps(config))
    (model / "model.safetensors").rename(model / "adapter_model.safetensors")
    license_it(model)
    hub = Hub()
    if is_refused:
        with pytest.raises(
            UserError, match=r"adapter_config.json: the adapter's base is .*expected a hub name"
        ):
            push(model, "me/model", api=hub)
        assert hub.created == hub.uploaded == []
    else:
        push(model, "me/model", api=hub)
        assert len(hub.uploaded) == 1


@pytest.mark.parametrize("repository", ["model", "a/b/c", "me/bad name"])
def test_other_names_and_folders_are_refused(model, repository, tmp_path):
    with pytest.raises(UserError, match="repository"):
        plan_push(model, repository)
    with pytest.raises(UserError, match="not a model"):
        plan_push(tmp_path, "me/model")


def test_a_missing_token_is_one_sentence(model):
    license_it(model)

    class Closed(Hub):
        def create_repo(self, *_, **__):
            raise LocalTokenNotFoundError("Token is required, but no token found.")

    with pytest.raises(UserError, match="me/model: cannot be uploaded: Token is required"):
        push(model, "me/model", api=Closed())
