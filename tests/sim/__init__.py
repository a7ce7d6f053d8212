"""The service run by a scheduler instead of an operating system: one seed is one course of events, faults included."""
