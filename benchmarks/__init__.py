"""What `make bench` runs: the cases of docs/BENCHMARKS.md on this project, and beside it on its peers.

- `cases/`: what is done (`interface.Case`); one file for each family.  A case stores what it needs, does its
  work on a mount (and on a library without one, where that is a measure), and names what is to be reached.
- `contenders/`: who does it (`contenders.base.Contender`); one file each, and `floor.c`.
- `runner.py` takes them in turn; `mounting.py` and `job.py` see to it that nothing hangs and nothing stays.
- `server.py` is a real S3 server behind a proxy that adds latency and logs each request.
- `results.py`, `report.py`, `charts.py`: what came of it, as JSON, Markdown and PNG.

Local stores are kept in `/dev/shm` where it has room, else in the temporary directory; `BENCH_LOCAL_DIR`
names another place.
"""
