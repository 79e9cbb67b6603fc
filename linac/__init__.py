"""What an Elekta linac says, and what we keep of it: a plain Python library, no Prefect anywhere below.

`linac.trf` reads TRF logs, `linac.icom` the iCom stream, `linac.capture` records that stream, `linac.index` keeps the logs
findable as Parquet, `linac.transport` reaches shares, `linac.simulator` pretends to be a linac. Parsers take bytes and return
values; whoever calls them owns files, sockets and clocks.
"""
