"""The example service: a catalogue with orders, and one endpoint that hides a blocking call."""
