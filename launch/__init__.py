"""What `run.py` starts once the packages are there: the Prefect server with a worker, the demo, a site's blocks from a file.

Nothing in here is needed where a hospital runs its own Prefect server and workers: the flows know nothing of this package.
"""
