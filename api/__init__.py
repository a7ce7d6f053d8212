"""The front, without torch: the process that accepts jobs and reports on them, and the dispatcher."""
