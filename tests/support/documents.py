"""What a parsed document holds, short enough to compare."""

from conan_embed.documents.document import Document


def outline(document: Document) -> list[tuple[tuple[str, ...], str, list[tuple[str, str]]]]:
    return [
        (section.headings, section.kind, [(block.kind, block.text) for block in section.blocks])
        for section in document.sections
    ]
