"""Steps run in the process of their run: on one machine it takes longer to start a process for each than to load what it loads."""

import dagster as dg

defs = dg.Definitions(executor=dg.in_process_executor)
