"""Reading a run from Python: maps and hallmarks as labelled xarray objects.

opening.py    open_run: which run, from where
view.py       RunView: what a reader asks for
labels.py     arrays and names into xarray objects
base.py       what a view asks of a source
served.py     a source: a server
stored.py     a source: the Zarr maps in a data directory
store.py      those maps as files: which there are, and one of them opened
measures.py   maps and hallmarks out of a Gram and its update products
"""
