"""What a person uses: the Python client, the command line, the local all-in-one stack."""
