"""Stand-ins, in memory, for the servers we use. They keep the promises that tests/contract holds the real ones to."""
