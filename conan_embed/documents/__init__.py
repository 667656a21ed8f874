"""From documents to pairs to train on: files -> sections -> passages -> (query, passage) pairs, and what is held out.

    sources.py      folders and files to (file, format); encodings, links, what is skipped and why
    markdown.py, html.py, rst.py, plain.py, office.py, tables.py    one format each, to `Document`s
    document.py     `Document`, `Section`, `Block`, and the builder that all formats share
    parsing.py      all files to blocks on disk, batch by batch, resumable
    boilerplate.py  copies of documents, and blocks that many documents repeat
    containment.py  documents whose text stands in others: print.html, the same manual in a second format
    passages.py     sections to passages of a bounded number of tokens
    pairs.py        queries for passages, without a language model
    held_out.py     the questions that are never trained on, as an evaluation folder
    build.py        `build_pairs`, the whole way

Nothing here needs a model: a tokenizer, where one is given, only bounds the length of passages.
"""
