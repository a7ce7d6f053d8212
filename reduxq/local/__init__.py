"""The whole service on one machine, without Docker, for trying it out; starts api and worker as processes."""
