"""Run a file of this folder for each job: `python every.py NAME.py JOB.json ...`; what it imports is imported once."""

import runpy
import sys

runner, *jobs = sys.argv[1:]
for job in jobs:
    sys.argv = [runner, job]
    runpy.run_path(runner, run_name="__main__")
