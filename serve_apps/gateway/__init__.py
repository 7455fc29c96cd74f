"""The HTTP interface that robots and operators call."""
