"""One command from a folder of documents to a model that searches them better: `conan-embed tune docs/ --model NAME`.

tune.py       `tune`: the whole way, and what it leaves in its folder
prepare.py    the filter's cheap stages on the pairs, one row a query for training
speed.py      how fast this machine encodes and trains, before anything starts
plan.py       settings from the model, the amount of data and the minutes given, each with its reason
clock.py      what the parts take; the estimate is said again after the first steps
scores.py     the reported questions one by one, under the base, the result and word search
result.py     `TuneResult`
merge.py      two models of one shape, interpolated
other.py      questions from other domains: what the tuned model may have forgotten
verdict.py    BETTER, NO CLEAR DIFFERENCE or WORSE, with the interval
replaced.py   which hard negatives were replaced, and by what
page.py       the page: verdict, questions won and lost, what it cost elsewhere
searching.py  search the passages that a run left
encoding.py   the embeddings of a file of texts as Parquet or NumPy (`conan-embed encode`)
"""
