"""Starts local-bigquery, more like BigQuery in one point: a folder `dt=…` in an object's name becomes a column only when the load job asks
for it. DuckDB, which reads the files, would otherwise see the folder and add the column, and the load into a table without it would fail.

And faster: DuckDB asks for pandas at every result, and Python looks for what is not installed in all its folders each time, a third of the
work of a small query."""

import sys

from local_bigquery.cli import main
from local_bigquery.jobs import load

sys.modules["pandas"] = None

as_asked = load._hive
load._hive = lambda config: as_asked(config) or {"hive_partitioning": "false"}

sys.exit(main())
