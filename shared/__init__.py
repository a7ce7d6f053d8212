"""What api and worker agree on: records, stores, queue, settings, errors. Imports neither."""
