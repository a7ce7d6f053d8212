"""What a person uses: the command line, the client, the local all-in-one stack. Starts api and worker as processes."""
