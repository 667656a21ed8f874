"""Read a job, write a client's embeddings. Imports nothing that a client's environment may lack."""

import json
import sys
from importlib.metadata import PackageNotFoundError, version


def job():
    with open(sys.argv[1], encoding="utf-8") as file:
        return json.load(file)


def write(job, query, passage, *packages):
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "?"
    rows = {
        "query": [list(map(float, row)) for row in query],
        "passage": [list(map(float, row)) for row in passage],
    }
    with open(job["output"], "w", encoding="utf-8") as file:
        json.dump({**rows, "versions": versions}, file)


def prompted(job, role):
    """The job's texts with their prompt, for clients that know of no prompts."""
    return [job["prompts"][role] + text for text in job["queries" if role == "query" else "passages"]]
