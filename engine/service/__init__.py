"""The engine behind HTTP: KServe's protocol, and calls for people and scripts (docs/service.md)."""
