"""What a memory does, for whoever watches: stages of the work, and spans of OpenTelemetry."""
