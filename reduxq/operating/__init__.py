"""What operators do at a terminal; speaks to the servers themselves, not to the API."""
