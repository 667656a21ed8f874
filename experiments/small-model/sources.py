"""What each training file is: its licence, and which evaluated sets it is in domain for.

Everything that the result and the card say of training data is built from this table and the recipes, so that a set that
is added to a recipe is declared too, or refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from conan_embed.errors import UserError
from conan_embed.recipes.data import Data


@dataclass(frozen=True)
class Source:
    """A training file.

    Attributes:
        licence: as its repository states it.
        split_of: evaluated sets that this is another split of.
        source_of: evaluated sets whose texts come from the same source, or from a closely related one.
        note: what else a reader should know.
    """

    licence: str
    split_of: tuple[str, ...] = ()
    source_of: tuple[str, ...] = ()
    note: str = ""

    @property
    def in_domain(self) -> tuple[str, ...]:
        return (*self.split_of, *self.source_of)


_NONE = "none stated"
_CSL = ("CLSClusteringS2S-csl", "CLSClusteringP2P-csl", "CSL-title2abstract")
_PICTURES = "describes pictures, as parts of STSB and STS14-en do; no text in common"

SOURCES = {
    # graded pairs
    "afqmc_train": Source(_NONE, ("AFQMC",), ("ATEC",)),
    "atec_dev": Source(_NONE, ("ATEC",), ("AFQMC",)),
    "lcqmc_dev": Source(_NONE, ("LCQMC",)),
    "pawsx_zh_dev": Source(_NONE, ("PAWSX",)),
    "qbqtc_dev_part": Source(_NONE, ("QBQTC", "QBQTC-dev"), ("QBQTC-groups",)),
    "oppo_dev": Source(_NONE, source_of=("BUSTM",)),
    "stsb_zh_train": Source(_NONE, ("STSB",)),
    "stsb_zh_dev": Source(_NONE, ("STSB",)),
    "chinese_sts_simtrain": Source(_NONE),
    "sick_en": Source("CC BY-NC-SA 3.0", note=_PICTURES),
    "msrp_en_train": Source("Microsoft Shared Source License", ("MSRP-en",)),
    # retrieval
    "drcd_dev": Source("CC BY-SA 3.0"),
    "c3_mixed": Source("non-commercial research only"),
    "cmrc_trial": Source("CC BY-SA 4.0", ("CMRC2018",)),
    "qa_medical_toyhom": Source("MIT", source_of=("MedicalQA", "MedicalQA-bm25neg")),
    "web_tidb_docs": Source("CC BY-SA 3.0", source_of=("TiDBDocs",)),
    "lawyer_llama_articles": Source("Apache-2.0; academic use only"),
    "qbqtc_groups": Source(_NONE, ("QBQTC-groups",), ("QBQTC", "QBQTC-dev")),
    "csnli": Source(_NONE, note=_PICTURES),
    "cinlid_idioms": Source(_NONE),
    "trecqa_en": Source("per-dataset terms", ("TRECQA-en",)),
    "acad_paperlists_en": Source(_NONE),
    # classification as retrieval
    "nlpcc2017_headlines": Source(
        _NONE,
        source_of=("TNews", "ThuNewsClusteringS2S-dev"),
        note="headlines of several Chinese portals",
    ),
    "finfe_sentiment": Source(_NONE),
    "csldcp_train": Source(_NONE, source_of=_CSL, note="abstracts of Chinese papers"),
    "csl_title_category": Source("Apache-2.0", _CSL[:2], _CSL[2:]),
    # weak pairs of stage 1, by category; data.py says which files
    "parallel": Source("CC0, Apache-2.0, CC BY-NC 4.0 (Alpaca), study only (gold-miner)"),
    "news": Source(_NONE),
    "knowledge_base": Source("MIT, CC BY 4.0, none stated (statutes)"),
    "web_page": Source("Apache-2.0, CC BY 4.0, CC BY-SA 4.0, Unlicense, study only (gold-miner)"),
    "academic_paper": Source(_NONE),
    "community_qa": Source("Apache-2.0, none stated"),
    "instruction": Source("CC BY-NC 4.0 (Alpaca)"),
    "llm_generated": Source("CC BY-NC 4.0 (Alpaca), Apache-2.0 (academic use only), CC0 1.0"),
}

EVALUATED_SOURCES = (
    *("qa_medical_toyhom", "web_tidb_docs", "acad_csl_keywords", "news_cctv", "news_tnews_keywords"),
)
"""Files of weak pairs from the sources of MedicalQA, TiDBDocs, CSL, NewsTitle2Body and TNews."""


def files_of(data: Data) -> list[str]:
    """Return the names of a recipe's training files, without ending.

    Raises:
        UserError: one that this table does not have.
    """
    files = [Path(part.path).stem for part in (*data.retrieval, *data.classification, *data.sts)]
    for file in files:
        if file not in SOURCES:
            raise UserError(
                f"{file}: not in sources.py; expected its licence and the sets that it is related to."
            )
    return files


def in_domain(files: Iterable[str]) -> dict[str, list[str]]:
    """Return the evaluated sets that training files are in domain for: those of which a split was trained on under
    `split`, those of which only the source was under `source`.
    """
    sources = [SOURCES[file] for file in files]
    splits = sorted({name for source in sources for name in source.split_of})
    related = sorted({name for source in sources for name in source.source_of} - {*splits})
    return {"split": splits, "source": related}


def statement(column: str, files: Iterable[str]) -> str:
    """Return what must be said of a column: which evaluated sets its training data is in domain for."""
    files = list(files)
    domain = in_domain(files)
    parts = [
        f"{words} {', '.join(names)}"
        for words, names in (
            ("on other splits of", domain["split"]),
            ("on the source, or a related one, of", domain["source"]),
        )
        if names
    ]
    notes = [f"{file} {SOURCES[file].note}" for file in files if SOURCES[file].note]
    trained = " and ".join(parts) or "on no split of an evaluated set, and on none of their sources"
    return f"`{column}` was trained {trained}." + (f" Of its files: {'; '.join(notes)}." if notes else "")


def licence_lines(files: Iterable[str]) -> list[str]:
    """Return a Markdown list: every training file with its licence and what it is in domain for."""
    lines = []
    for file in dict.fromkeys(files):
        source = SOURCES[file]
        domain = f"; in domain for {', '.join(source.in_domain)}" if source.in_domain else ""
        lines.append(f"- `{file}`: {source.licence}{domain}")
    return lines
