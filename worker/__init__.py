"""The GPU process: takes a job, runs FLUX.1 Redux, stores what came out."""
